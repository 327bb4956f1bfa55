use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use http::{Request, Response};

use crate::control::Target;
use crate::{Authority, Body, Identity, Pool, UpstreamBody, UpstreamError, UpstreamLimits};

/// A client of one target group: takes turns among its targets and goes on to the next if one cannot be reached.
/// Clones share the connections.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    identity: Identity,
    authority: Authority,
    limits: UpstreamLimits,
    pools: ArcSwap<Vec<Pool>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// A client of `targets`. Fails only if the authority cannot be used.
    pub fn new(
        identity: &Identity,
        authority: &Authority,
        targets: Vec<Target>,
        limits: UpstreamLimits,
    ) -> Result<Self, rustls::Error> {
        let upstream = Self(Arc::new(Inner {
            identity: identity.clone(),
            authority: authority.clone(),
            limits,
            pools: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        }));
        upstream.set_targets(targets)?;
        Ok(upstream)
    }

    /// Calls exactly these targets from now on. Connections to those that stay are kept, unless to a key that is no
    /// longer accepted. Requests under way go on.
    pub fn set_targets(&self, targets: Vec<Target>) -> Result<(), rustls::Error> {
        let old = self.0.pools.load();
        let pools: Result<Vec<Pool>, _> = targets
            .into_iter()
            .map(|target| {
                let same = |pool: &&Pool| {
                    (pool.target().instance, pool.target().address) == (target.instance, target.address)
                };
                match old.iter().find(same) {
                    Some(pool) => {
                        pool.set_pins(target.pins);
                        Ok(pool.clone())
                    }
                    None => Pool::new(target, &self.0.identity, &self.0.authority, self.0.limits.clone()),
                }
            })
            .collect();
        self.0.pools.store(Arc::new(pools?));
        Ok(())
    }

    /// Sends a request to one target, or to each in turn for as long as sending it again does no harm.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<UpstreamBody>, UpstreamError> {
        let pools = self.0.pools.load_full();
        let first = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let mut request = request;
        let mut last = UpstreamError::NoTarget;
        for step in 0..pools.len() {
            let Some(pool) = pools.get(first.wrapping_add(step) % pools.len()) else { break };
            match pool.send(request).await {
                Ok(response) => return Ok(response),
                Err(failed) => {
                    last = failed.error;
                    match failed.request {
                        Some(again) => request = *again,
                        None => break,
                    }
                }
            }
        }
        Err(last)
    }
}
