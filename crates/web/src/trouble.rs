//! What can go wrong for a person at a page, and the page that says so.

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderValue, StatusCode, header};

use crate::cookie;
use crate::pages::Message;

/// Why a page cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody is signed in.
    SignedOut,
    /// The session has ended.
    Ended,
    /// The person may not.
    Forbidden,
    /// No such page, record or link; or not for this person.
    Missing,
    /// A form came from another site.
    CrossSite,
    /// Too many attempts.
    Locked,
    /// The request makes no sense.
    Refused,
    /// A tier behind this one does not answer, or cannot write its audit log. Nothing was to be changed, or nothing
    /// was sent.
    Unavailable,
    /// The same in the middle of a change.
    Unknown,
}

impl Trouble {
    /// What an answer of the app tier with this status means; `None` if all is well.
    pub(crate) fn of(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            200..=299 => None,
            401 => Some(Self::Ended),
            403 => Some(Self::Forbidden),
            404 | 410 => Some(Self::Missing),
            429 => Some(Self::Locked),
            400..=499 => Some(Self::Refused),
            _ => Some(Self::Unavailable),
        }
    }

    /// Why one part of a page is not there, in a sentence.
    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::Forbidden => "Your role does not allow you to see these.",
            _ => "These cannot be loaded at the moment.",
        }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let page = |status, title, words, link| (status, Message::page(title, words, link)).into_response();
        let home = Some(("/", "To the first page"));
        match self {
            Self::SignedOut => Redirect::to("/sign-in").into_response(),
            Self::Ended => {
                let mut response = Redirect::to("/session/expired").into_response();
                response
                    .headers_mut()
                    .append(header::SET_COOKIE, HeaderValue::from_static(cookie::NO_SESSION));
                response
            }
            Self::Forbidden => page(
                StatusCode::FORBIDDEN,
                "You may not see this",
                "Your role does not allow it. If you need it for your work, ask your administrator.",
                home,
            ),
            Self::Missing => page(
                StatusCode::NOT_FOUND,
                "This is not here",
                "There is no such page. Links to records end when you sign out: find the patient again.",
                home,
            ),
            Self::CrossSite => page(
                StatusCode::FORBIDDEN,
                "This form came from another site",
                "For your protection it was not accepted, and nothing was changed.",
                home,
            ),
            Self::Locked => page(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts",
                "Wait 15 minutes, then try again.",
                Some(("/sign-in", "Sign in")),
            ),
            Self::Refused => page(
                StatusCode::BAD_REQUEST,
                "This request cannot be read",
                "Nothing was changed. Go back and try again.",
                home,
            ),
            Self::Unavailable => {
                let words =
                    "Records cannot be reached at the moment. Nothing was changed. Try again in a minute.";
                let mut response = page(StatusCode::SERVICE_UNAVAILABLE, "Not available now", words, home);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
                response
            }
            // Nothing that makes a program try again.
            Self::Unknown => page(
                StatusCode::BAD_GATEWAY,
                "Perhaps not saved",
                "It is not known whether it was saved. Look at the record before you do it again.",
                home,
            ),
        }
    }
}
