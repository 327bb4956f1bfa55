//! The style sheet, the script and the icon, under addresses that name their content.

use std::fmt::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};

use crate::trouble::Trouble;

const FILES: [(&str, &str, &str); 3] = [
    ("ward.css", "text/css; charset=utf-8", include_str!("../assets/ward.css")),
    ("ward.js", "text/javascript; charset=utf-8", include_str!("../assets/ward.js")),
    ("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

/// Where the pages find them.
pub(crate) struct Assets {
    hash: String,
    pub(crate) css: String,
    pub(crate) js: String,
    pub(crate) icon: String,
}

/// The addresses, made once.
pub(crate) fn assets() -> &'static Assets {
    static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
        let mut all = Vec::new();
        for (name, _, content) in FILES {
            all.extend_from_slice(name.as_bytes());
            all.extend_from_slice(digest(&SHA256, content.as_bytes()).as_ref());
        }
        let mut hash = String::new();
        for byte in digest(&SHA256, &all).as_ref().iter().take(8) {
            let _ = write!(hash, "{byte:02x}");
        }
        let address = |name: &str| format!("/assets/{hash}/{name}");
        Assets { css: address("ward.css"), js: address("ward.js"), icon: address("icon.svg"), hash }
    });
    &ASSETS
}

/// `GET /assets/{hash}/{name}`. Another hash is another version, which another instance may have for a moment
/// during an update: it gets this version, uncached.
pub(crate) async fn asset(Path((hash, name)): Path<(String, String)>) -> Result<Response, Trouble> {
    let (_, media_type, content) = FILES.iter().find(|file| file.0 == name).ok_or(Trouble::Missing)?;
    let caching = if hash == assets().hash { "public, max-age=31536000, immutable" } else { "no-store" };
    let mut response = Body::from(*content).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    Ok(response)
}
