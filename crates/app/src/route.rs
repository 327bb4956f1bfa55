//! From a path to what answers it, and the frame around every answer: no entry in the audit log, no answer.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use ward_audit::{Class, Outcome};
use ward_monitor::event;
use ward_transport::{Body, Caller, RequestBody, Serve};

use crate::app::App;
use crate::call::Call;
use crate::problem::{Form, Problem};
use crate::reply::Reply;
use crate::{accesses, accounts, bulk, fhir, health, index, oauth, session};

/// What answers the requests of the tier.
pub(crate) struct Router(pub(crate) Arc<App>);

impl Serve for Router {
    type Body = Body;

    async fn serve(&self, _: &Caller, request: Request<RequestBody>) -> Response<Body> {
        let app = Arc::clone(&self.0);
        if request.uri().path() == "/healthz" {
            return health::healthz(&app).await.into_response();
        }
        let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
        if reads && !fhir::begins_something(request.uri().path()) {
            return answer(app, request).await.into_response();
        }
        let form = form(request.uri().path());
        let (parts, body) = request.into_parts();
        let mut failed = Call::new(Arc::clone(&app), parts.headers.clone());
        // What was begun is finished and its outcome logged, even if the client goes away.
        match app.tasks.spawn(answer(Arc::clone(&app), Request::from_parts(parts, body))).await {
            Ok(reply) => reply.into_response(),
            Err(_) => logged(&mut failed, Problem::internal().reply(form), form).await.into_response(),
        }
    }
}

fn form(path: &str) -> Form {
    if path.starts_with("/fhir/") { Form::Fhir } else { Form::Plain }
}

async fn answer(app: Arc<App>, request: Request<RequestBody>) -> Reply {
    let (parts, body) = request.into_parts();
    let mut call = Call::new(app, parts.headers);
    let path = parts.uri.path();
    let form = form(path);
    call.head = parts.method == Method::HEAD;
    let method = if call.head { Method::GET } else { parts.method };
    let target = Target { method, path, query: parts.uri.query() };
    let outcome = dispatch(&mut call, &target, body).await;
    let (reply, outcome) = match outcome {
        Ok(reply) if call.refused_unsaid => (reply, Outcome::Refused),
        Ok(reply) => (reply, Outcome::Success),
        Err(problem) => {
            call.touches(problem.patients(), 0);
            let refused = matches!(problem.status().as_u16(), 401 | 403 | 429);
            let outcome = if refused { Outcome::Refused } else { Outcome::Failed };
            // An OAuth error has words of its own that clients look for.
            let reply = if path == "/oauth/token" { oauth::refusal(&problem) } else { problem.reply(form) };
            (reply, outcome)
        }
    };
    call.entry.outcome = outcome;
    let reply = logged(&mut call, reply, form).await;
    if call.head { reply.without_body() } else { reply }
}

/// The reply, once the log has it; else the words that the log cannot be written.
async fn logged(call: &mut Call, reply: Reply, form: Form) -> Reply {
    if reply.status() == StatusCode::INTERNAL_SERVER_ERROR {
        event!(Error, "request.failed", request = call.id);
    }
    call.entry.status = Some(reply.status().as_u16());
    let recorded = call.record(vec![call.entry.clone()]).await;
    recorded.map_or_else(|problem| problem.reply(form), |()| reply)
}

/// Where a request goes.
pub(crate) struct Target<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

async fn dispatch(call: &mut Call, target: &Target<'_>, body: RequestBody) -> Result<Reply, Problem> {
    if let Some(rest) = target.path.strip_prefix("/fhir/R4")
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return fhir::dispatch(call, target, rest, body).await;
    }
    match (target.path, target.method.as_str()) {
        ("/.well-known/smart-configuration", "GET") => oauth::smart_configuration(call),
        ("/oauth/token", "POST") => oauth::token(call, body).await,
        ("/session", "GET") => session::me(call).await,
        ("/session/sign-in", "POST") => session::sign_in(call, body).await,
        ("/session/second-factor", "POST") => session::second_factor(call, body).await,
        ("/session/sign-out", "POST") => session::sign_out(call).await,
        ("/session/enrolment", "POST") => session::enrolment(call, body).await,
        ("/session/enrolment/complete", "POST") => session::complete_enrolment(call, body).await,
        ("/ward/users", "GET") => accounts::list(call).await,
        ("/ward/users", "POST") => accounts::add_user(call, body).await,
        ("/ward/accounts", "POST") => accounts::set_disabled(call, body).await,
        ("/ward/clients", "POST") => accounts::add_client(call, body).await,
        ("/ward/accesses", "POST") => accesses::accesses(call, body).await,
        ("/ward/import", "POST") => bulk::import(call, target.query, body).await,
        ("/ward/export", "GET") => bulk::export(call, target.query).await,
        ("/ward/index", "GET") => index::status(call).await,
        ("/ward/index/key", "POST") => index::replace_key(call).await,
        (path, _) => {
            call.doing(Class::Rest, "unknown-address", None);
            Err(match path {
                "/ward/users" => Problem::method_not_allowed("GET, POST"),
                "/session" | "/ward/export" | "/ward/index" | "/.well-known/smart-configuration" => {
                    Problem::method_not_allowed("GET")
                }
                "/oauth/token"
                | "/session/sign-in"
                | "/session/second-factor"
                | "/session/sign-out"
                | "/session/enrolment"
                | "/session/enrolment/complete"
                | "/ward/accounts"
                | "/ward/clients"
                | "/ward/accesses"
                | "/ward/import"
                | "/ward/index/key" => Problem::method_not_allowed("POST"),
                _ => Problem::no_such_path(),
            })
        }
    }
}
