use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::UpstreamBody;

/// A body on its way: nothing, bytes at hand, or a stream that is passed on as it comes.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Set whenever something of it was taken.
    progress: Option<Arc<AtomicBool>>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Request(RequestBody),
    Upstream(UpstreamBody),
    Other(UnsyncBoxBody<Bytes, BodyError>),
}

/// Why a body did not arrive whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed; the sender's fault.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// It comes slower than allowed; the sender's fault.
    #[error("the body came too slowly")]
    TooSlow,
    /// The connection ended or its framing broke in the middle.
    #[error("the body was cut off")]
    Broken,
}

/// The body of a request that a [`crate::Server`] received, held to its limits of size and pace.
pub struct RequestBody {
    incoming: Incoming,
    remaining: u64,
    pace: Pace,
    fault: Fault,
}

/// What went wrong with a request's body, readable after the body was handed on. Watched only where there is something
/// to wait for: most requests have no body.
type Fault = Option<Arc<OnceLock<BodyError>>>;

/// How long a sender may keep us waiting: a credit that waiting uses up and data renews. Someone who sends a byte now
/// and then runs out of it, however short each pause is; someone held back by our own reader does not.
pub(crate) struct Pace {
    credit: Duration,
    limit: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// The slowest pace that is not cut off in the long run.
const BYTES_PER_SECOND_MIN: u64 = 1024;

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self { kind: Kind::Empty, progress: None }
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Kind::Full(bytes).into() }
    }

    /// Any other body, boxed unless it is known to be empty. A failure of it counts as cut off: it may quote what it
    /// carries.
    pub fn new(body: impl HttpBody<Data = Bytes> + Send + 'static) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Kind::Other(body.map_err(|_| BodyError::Broken).boxed_unsync()).into()
    }

    /// The same body once more, if it is not streamed.
    pub(crate) fn at_hand(&self) -> Option<Self> {
        match &self.kind {
            Kind::Empty => Some(Self::empty()),
            Kind::Full(bytes) => Some(Self::full(bytes.clone())),
            _ => None,
        }
    }

    /// Whether there is certainly nothing in it.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    /// A flag that is set whenever something of this body was taken.
    pub(crate) fn progress(&mut self) -> Arc<AtomicBool> {
        self.progress.get_or_insert_default().clone()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, progress: None }
    }
}

impl From<RequestBody> for Body {
    fn from(body: RequestBody) -> Self {
        if body.is_end_stream() { Self::empty() } else { Kind::Request(body).into() }
    }
}

impl From<UpstreamBody> for Body {
    fn from(body: UpstreamBody) -> Self {
        if body.is_end_stream() { Self::empty() } else { Kind::Upstream(body).into() }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Request(body) => Pin::new(body).poll_frame(context),
            Kind::Upstream(body) => Pin::new(body).poll_frame(context),
            Kind::Other(body) => Pin::new(body).poll_frame(context),
        };
        if let (Some(progress), Poll::Ready(_)) = (&this.progress, &frame) {
            progress.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Request(body) => body.is_end_stream(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Kind::Request(body) => body.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Other(body) => body.size_hint(),
        }
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, bytes_max: u64, wait_max: Duration) -> Self {
        let fault = (!incoming.is_end_stream()).then(Arc::default);
        Self { incoming, remaining: bytes_max, pace: Pace::new(wait_max), fault }
    }

    /// A look at what went wrong that stays possible after the body was handed on.
    pub fn watch(&self) -> impl Fn() -> Option<BodyError> + Send + Sync + use<> {
        let fault = self.fault.clone();
        move || fault.as_ref()?.get().copied()
    }

    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(fault) = &self.fault {
            let _ = fault.set(error);
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                // Trailers could smuggle what the checks of the head refuse; nothing here needs them.
                let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
                let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
                this.pace.received(size);
                match this.remaining.checked_sub(size) {
                    Some(remaining) => {
                        this.remaining = remaining;
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    None => this.fail(BodyError::TooLarge),
                }
            }
            Poll::Ready(Some(Err(_))) => this.fail(BodyError::Broken),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.pace.exhausted(context) => this.fail(BodyError::TooSlow),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Pace {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { credit: limit, limit, waiting: None }
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        if let Some((since, _)) = self.waiting.take() {
            self.credit = self.credit.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000 / BYTES_PER_SECOND_MIN));
        self.credit = self.credit.saturating_add(earned).min(self.limit);
    }

    /// To be asked when there is nothing to read; wakes the task when the credit is used up.
    pub(crate) fn exhausted(&mut self, context: &mut Context<'_>) -> bool {
        let credit = self.credit;
        let (_, sleep) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(credit))));
        sleep.as_mut().poll(context).is_ready()
    }
}
