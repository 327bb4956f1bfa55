//! The web tier: pages for people, and the gateway that API requests go through.
//!
//! Pages are rendered here and usable without script; what they show comes from the app tier, asked over HTTPS
//! through the internal balancer in the name of the person's session. It refuses to hold anything: no database,
//! no data key, no session (the browser holds the token, the app tier the record). No name, id or clinical value
//! stands in an address or a title; nothing of a request or an answer is logged.

mod app;
mod assets;
mod cookie;
mod form;
mod gateway;
mod handle;
mod headers;
mod observation;
mod pages;
mod site;
mod trouble;
mod view;
mod visit;
