//! The body of a form.

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::trouble::Trouble;

/// A form's fields. Unlike axum's own, what is wrong with a body is never quoted in the answer.
pub(crate) struct Form<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Trouble;

    async fn from_request(request: Request, state: &S) -> Result<Self, Trouble> {
        match axum::Form::from_request(request, state).await {
            Ok(axum::Form(fields)) => Ok(Self(fields)),
            Err(_) => Err(Trouble::Refused),
        }
    }
}
