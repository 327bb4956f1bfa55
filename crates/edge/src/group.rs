//! The members of the target group: who gets the next request, and who gets none.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use ward_base::InstanceId;
use ward_monitor::event;
use ward_transport::control::{self, Report, Target};
use ward_transport::{
    Authority, Body, Identity, Pool, SendError, UpstreamBody, UpstreamError, UpstreamLimits, cookies,
    server_name,
};

use crate::health::{Sign, Standing};
use crate::sticky::{self, Mark, Sticky};
use crate::{EdgeConfig, HealthCheck};

/// How often a target that gets no requests is asked whether it is back.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(150);
/// The longest answer to a check that is read for the sake of its connection.
const CHECK_BYTES_MAX: usize = 64 << 10;

/// The target group.
pub(crate) struct Group {
    identity: Identity,
    authority: Authority,
    limits: UpstreamLimits,
    sticky: Option<Sticky>,
    watch: Arc<Watch>,
    members: ArcSwap<Vec<Arc<Member>>>,
    turn: AtomicUsize,
}

/// How members are watched.
struct Watch {
    group: String,
    check: HealthCheck,
}

/// One target.
pub(crate) struct Member {
    pool: Pool,
    /// Connections of its own, so that a check is never the request that finds a stale one.
    checks: Pool,
    state: AtomicU8,
    doubted: Notify,
    mark: Option<Mark>,
    watcher: OnceLock<AbortHandle>,
}

/// Not asked yet.
const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
/// A request found it unreachable; the next check, which is due at once, decides.
const DOUBTED: u8 = 2;
const UNHEALTHY: u8 = 3;

impl Group {
    /// The group of `config`. Needs a runtime: its members are watched from now on.
    pub(crate) fn new(
        identity: &Identity,
        authority: &Authority,
        config: &EdgeConfig,
    ) -> Result<Self, rustls::Error> {
        let sticky = config.sticky.as_deref().filter(|_| config.public).and_then(|key| {
            let sticky = Sticky::new(key);
            if sticky.is_none() {
                event!(Error, "edge.sticky_key_too_short");
            }
            sticky
        });
        let group = Self {
            identity: identity.clone(),
            authority: authority.clone(),
            limits: config.limits.upstream(),
            sticky,
            watch: Arc::new(Watch { group: config.group.name.clone(), check: config.group.health.clone() }),
            members: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        };
        group.set_targets(config.group.targets.clone())?;
        Ok(group)
    }

    /// Consists of exactly these members from now on. Those that stay keep their connections, unless to a key that is
    /// no longer accepted, and their standing. Requests under way go on.
    pub(crate) fn set_targets(&self, targets: Vec<Target>) -> Result<(), rustls::Error> {
        let old = self.members.load();
        let key = |target: &Target| -> (InstanceId, SocketAddr) { (target.instance, target.address) };
        let mut members = Vec::with_capacity(targets.len());
        for target in targets {
            match old.iter().find(|member| key(member.target()) == key(&target)) {
                Some(member) => {
                    member.pool.set_pins(target.pins.clone());
                    member.checks.set_pins(target.pins);
                    members.push(member.clone());
                }
                None => members.push(Arc::new(self.member(target)?)),
            }
        }
        for member in &members {
            member
                .watcher
                .get_or_init(|| tokio::spawn(watch(member.clone(), self.watch.clone())).abort_handle());
        }
        for member in old.iter().filter(|old| !members.iter().any(|member| Arc::ptr_eq(old, member))) {
            member.forget();
        }
        self.members.store(Arc::new(members));
        Ok(())
    }

    fn member(&self, target: Target) -> Result<Member, rustls::Error> {
        let patience = Duration::from_millis(self.watch.check.timeout_ms);
        let check_limits = UpstreamLimits {
            // Longer than a whole check may take: one that is slow is not one that is refused.
            connect_timeout: patience.saturating_mul(2),
            response_timeout: patience,
            body_read_timeout: patience,
            idle_max: 1,
            ..self.limits.clone()
        };
        Ok(Member {
            mark: self.sticky.as_ref().and_then(|sticky| sticky.mark(target.instance)),
            pool: Pool::new(target.clone(), &self.identity, &self.authority, self.limits.clone())?,
            checks: Pool::new(target, &self.identity, &self.authority, check_limits)?,
            state: AtomicU8::new(UNKNOWN),
            doubted: Notify::new(),
            watcher: OnceLock::new(),
        })
    }

    /// Waits until every member was asked once, or has had the time to answer.
    pub(crate) async fn first_results(&self) {
        let known = async {
            while self.members.load().iter().any(|member| member.state() == UNKNOWN) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(self.watch.check.timeout_ms), known).await;
    }

    /// The member that a request's cookie names, if it gets requests.
    pub(crate) fn remembered(&self, headers: &HeaderMap) -> Option<Arc<Member>> {
        self.sticky.as_ref()?;
        let members = self.members.load();
        let named =
            |value| members.iter().find(|member| member.mark.as_ref().is_some_and(|mark| mark.is(value)));
        cookies(headers, sticky::NAME).filter_map(named).find(|member| member.state() == HEALTHY).cloned()
    }

    /// Sends a request to `preferred`, or to the one whose turn it is. Goes on to others for as long as it certainly
    /// reached nobody, and once more if sending it twice does no harm.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        preferred: Option<Arc<Member>>,
    ) -> Result<(Response<UpstreamBody>, Arc<Member>), UpstreamError> {
        let mut request = request;
        let mut preferred = preferred;
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut repeated = false;
        let mut last = UpstreamError::NoTarget;
        while let Some(member) = preferred.take().or_else(|| self.next(&tried)) {
            let SendError { error, request: again } = match member.pool.send(request).await {
                Ok(response) => return Ok((response, member)),
                Err(failed) => failed,
            };
            let unreached = matches!(error, UpstreamError::Connect | UpstreamError::Untrusted);
            if unreached {
                member.doubt();
            }
            match again {
                Some(again) if unreached || !repeated => request = *again,
                _ => return Err(error),
            }
            repeated |= !unreached;
            last = error;
            tried.push(member.instance());
        }
        Err(last)
    }

    /// Whose turn it is among the healthy; if there are none, among those of whom nothing certain is known.
    fn next(&self, tried: &[InstanceId]) -> Option<Arc<Member>> {
        let members = self.members.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let of = |wanted: fn(u8) -> bool| {
            let fits = |member: &&Arc<Member>| wanted(member.state()) && !tried.contains(&member.instance());
            let count = members.iter().filter(fits).count();
            members.iter().filter(fits).nth(turn.checked_rem(count)?).cloned()
        };
        of(|state| state == HEALTHY).or_else(|| of(|state| matches!(state, UNKNOWN | DOUBTED)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in self.members.load().iter() {
            member.forget();
        }
    }
}

impl Member {
    /// What keeps a browser here; none if nobody is to be kept.
    pub(crate) fn cookie(&self) -> Option<&HeaderValue> {
        Some(&self.mark.as_ref()?.set)
    }

    fn target(&self) -> &Target {
        self.pool.target()
    }

    fn instance(&self) -> InstanceId {
        self.target().instance
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Gets no further requests, if others can, until a check has succeeded. One is made at once.
    fn doubt(&self) {
        let _ = self.state.compare_exchange(HEALTHY, DOUBTED, Ordering::Relaxed, Ordering::Relaxed);
        self.doubted.notify_one();
    }

    /// Is no longer watched.
    fn forget(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.abort();
        }
    }

    async fn check(&self, check: &HealthCheck) -> Result<Sign, UpstreamError> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = check.path.parse().map_err(|_| UpstreamError::NoTarget)?;
        let host =
            HeaderValue::try_from(server_name(self.instance())).map_err(|_| UpstreamError::NoTarget)?;
        request.headers_mut().insert(header::HOST, host);
        let before = self.checks.connections();
        let response = self.checks.send(request).await.map_err(|failed| failed.error)?;
        let status = response.status();
        // To the end, so that the connection can be used again.
        let read = Limited::new(response.into_body(), CHECK_BYTES_MAX).collect().await;
        let good = status == StatusCode::OK && read.is_ok();
        Ok(if good { Sign::Good { anew: self.checks.connections() != before } } else { Sign::Bad })
    }
}

/// Asks a member again and again, and keeps its state.
async fn watch(member: Arc<Member>, watch: Arc<Watch>) {
    let Watch { group, check } = watch.as_ref();
    let (interval, patience) =
        (Duration::from_millis(check.interval_ms), Duration::from_millis(check.timeout_ms));
    let instance = member.instance();
    let mut standing = Standing::default();
    loop {
        let answer = tokio::time::timeout(patience, member.check(check)).await;
        let sign = match answer {
            Ok(Ok(sign)) => sign,
            Ok(Err(UpstreamError::Connect | UpstreamError::Untrusted)) => Sign::Refused,
            Ok(Err(_)) | Err(_) => Sign::Bad,
        };
        let verdict = standing.after(sign, check);
        match sign {
            Sign::Good { .. } if verdict.healthy => member.state.store(HEALTHY, Ordering::Relaxed),
            // A bad answer that is forgiven does not lift a request's doubt.
            _ if verdict.healthy => {}
            _ => member.state.store(UNHEALTHY, Ordering::Relaxed),
        }
        if verdict.report {
            control::report(&Report::Health { group: group.clone(), instance, healthy: verdict.healthy });
        }
        if verdict.changed {
            match (verdict.healthy, &answer) {
                (true, _) => event!(Information, "target.healthy", instance = instance),
                (false, Ok(Err(UpstreamError::Untrusted))) => {
                    event!(Error, "target.untrusted", instance = instance)
                }
                (false, _) => event!(Warning, "target.unhealthy", instance = instance),
            }
        }
        let pause = if verdict.healthy { interval } else { interval.min(RECOVERY_INTERVAL) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = member.doubted.notified() => {}
        }
    }
}
