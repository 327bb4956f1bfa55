//! What is sent to whoever subscribed, and `$status`, which says the same on request
//! (<https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/notifications.html>).

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use ward_audit::Class;
use ward_base::{Phi, Random, ResourceId};
use ward_identity::Permission;
use ward_store::{ResourceKey, Session, Stored};

use super::media::FHIR_JSON_NAME;
use super::subscription::{BACKPORT, Content, Definition, Form};
use super::text::{BundleText, quoted};
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;
use crate::subscriptions::{self, Change, Notification};

/// What a message is about.
pub(crate) enum Occasion<'a> {
    /// The first: whether anybody is there.
    Handshake,
    /// A sign of life.
    Heartbeat,
    /// Something happened to this resource, which is here as it was stored then.
    Event { number: u64, notification: &'a Notification, stored: &'a Stored },
}

/// The parts of a message that do not depend on what happened.
pub(crate) struct Sender<'a> {
    pub(crate) base: &'a str,
    pub(crate) id: &'a ResourceId,
    pub(crate) definition: &'a Definition,
    /// How many events there have been.
    pub(crate) events: u64,
}

impl Sender<'_> {
    /// The request to send; nothing if R4's own form has none for the occasion.
    pub(crate) fn request(
        &self,
        occasion: &Occasion<'_>,
        random: &dyn Random,
    ) -> Result<Option<Request<Bytes>>, Problem> {
        let endpoint = &self.definition.endpoint;
        let (method, path, body) = match (&self.definition.form, occasion) {
            (Form::Topic { canonical, content }, _) => {
                let body = self.bundle(canonical, *content, occasion, random);
                (Method::POST, endpoint.path.clone(), body.into_inner())
            }
            (Form::Plain { .. }, Occasion::Handshake | Occasion::Heartbeat) => return Ok(None),
            (Form::Plain { payload: false }, Occasion::Event { .. }) => {
                (Method::POST, endpoint.path.clone(), Vec::new())
            }
            (Form::Plain { payload: true }, Occasion::Event { notification, stored, .. }) => {
                let place = endpoint.path.trim_end_matches('/');
                let path = format!("{place}/{}/{}", notification.kind, notification.id);
                (Method::PUT, path, stored.body.expose().clone())
            }
        };
        let mut request = Request::new(Bytes::from(body));
        let address = format!("{path}{}", endpoint.query);
        *request.method_mut() = method;
        *request.uri_mut() = address.parse().map_err(|_| Problem::internal())?;
        let headers = request.headers_mut();
        headers.clone_from(&self.definition.headers);
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("Ward"));
        if !request.body().is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FHIR_JSON_NAME));
        }
        Ok(Some(request))
    }

    fn bundle(
        &self,
        canonical: &str,
        content: Content,
        occasion: &Occasion<'_>,
        random: &dyn Random,
    ) -> Phi<Vec<u8>> {
        // Without content, not even the topic is told: what it is about may tell of a patient.
        let topic = (content != Content::Empty).then_some(canonical);
        let (status, kind) = match occasion {
            Occasion::Handshake => ("requested", "handshake"),
            Occasion::Heartbeat => ("active", "heartbeat"),
            Occasion::Event { .. } => ("active", "event-notification"),
        };
        let mut parameters = parameters(self.base, self.id, topic, status, kind, self.events);
        let profile = format!("{BACKPORT}backport-subscription-notification-r4");
        let mut bundle = BundleText::history_of(&profile);
        let focus = match occasion {
            Occasion::Event { notification, .. } => {
                Some(format!("{}/{}/{}", self.base, notification.kind, notification.id))
            }
            _ => None,
        };
        if let Occasion::Event { number, notification, .. } = occasion {
            let mut part = vec![
                json!({"name": "event-number", "valueString": number.to_string()}),
                json!({"name": "timestamp", "valueInstant": notification.at.to_instant()}),
            ];
            if content != Content::Empty {
                part.push(json!({"name": "focus", "valueReference": {"reference": focus}}));
            }
            let event = json!({"name": "notification-event", "part": part});
            if let Some(list) = parameters["parameter"].as_array_mut() {
                list.push(event);
            }
        }
        let own = json!({"method": "GET", "url": format!("{}/Subscription/{}/$status", self.base, self.id.as_str())});
        bundle.entry(&[format!(
            "\"fullUrl\":{},\"resource\":{parameters},\"request\":{own},\"response\":{{\"status\":\"200\"}}",
            of_no_place(random)
        )
        .as_bytes()]);
        if let (Occasion::Event { notification, stored, .. }, Some(focus)) = (occasion, focus)
            && content != Content::Empty
        {
            let (method, url, status) = match notification.change {
                Change::Create => ("POST", notification.kind.clone(), "201"),
                Change::Update => ("PUT", format!("{}/{}", notification.kind, notification.id), "200"),
                Change::Delete => ("DELETE", format!("{}/{}", notification.kind, notification.id), "204"),
            };
            let full_url = format!("\"fullUrl\":{}", quoted(&focus));
            let done = format!(
                ",\"request\":{{\"method\":\"{method}\",\"url\":{}}},\"response\":{{\"status\":\"{status}\"}}",
                quoted(&url)
            );
            if content == Content::FullResource && !stored.deleted {
                let resource: [&[u8]; 4] =
                    [full_url.as_bytes(), b",\"resource\":", stored.body.expose(), done.as_bytes()];
                bundle.entry(&resource);
            } else {
                bundle.entry(&[full_url.as_bytes(), done.as_bytes()]);
            }
        }
        Phi::new(bundle.finish())
    }
}

/// The status of a Subscription as R4 has to say it (profile `backport-subscription-status-r4`).
fn parameters(
    base: &str,
    id: &ResourceId,
    topic: Option<&str>,
    status: &str,
    kind: &str,
    events: u64,
) -> Value {
    let reference = format!("{base}/Subscription/{}", id.as_str());
    let mut list = vec![json!({"name": "subscription", "valueReference": {"reference": reference}})];
    list.extend(topic.map(|topic| json!({"name": "topic", "valueCanonical": topic})));
    list.extend([
        json!({"name": "status", "valueCode": status}),
        json!({"name": "type", "valueCode": kind}),
        json!({"name": "events-since-subscription-start", "valueString": events.to_string()}),
    ]);
    json!({
        "resourceType": "Parameters",
        "meta": {"profile": [format!("{BACKPORT}backport-subscription-status-r4")]},
        "parameter": list,
    })
}

/// The `fullUrl` of an entry that is stored nowhere, as JSON: ids made here are UUIDs.
fn of_no_place(random: &dyn Random) -> String {
    quoted(&format!("urn:uuid:{}", ResourceId::random(random).as_str()))
}

/// `GET` or `POST [base]/Subscription/id/$status`
/// (<https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/OperationDefinition-backport-subscription-status.html>).
pub(crate) async fn status(call: &mut Call, key: ResourceKey, query: Option<&str>) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "subscription-status", Some(key.resource_type));
    call.about(&key, None);
    super::media::acceptable(call, query)?;
    call.permit(Permission::Read, Some(key.resource_type))?;
    let wanted = key.clone();
    let read = move |session: &mut dyn Session| {
        let stored = session.current(&wanted)?;
        Ok::<_, Problem>((stored, subscriptions::events(session, &wanted.id)?))
    };
    let (stored, events) = call.app.store.read(read).await?;
    let stored = stored.ok_or_else(Problem::not_found)?;
    if stored.deleted {
        return Err(Problem::gone());
    }
    call.touches(&stored.patients, 1);
    let resource: Value = serde_json::from_slice(stored.body.expose()).map_err(|_| Problem::internal())?;
    let text = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_default();
    // R4's own criteria are no topic.
    let topic = Some(text("criteria")).filter(|criteria| criteria.starts_with("http"));
    let base = &call.app.settings.base;
    let said = parameters(base, &key.id, topic, text("status"), "query-status", events.unwrap_or_default());
    let mut bundle = BundleText::new("searchset", Some(1), &[]);
    let url = of_no_place(&*call.app.random);
    bundle.entry(&[
        format!("\"fullUrl\":{url},\"resource\":{said},\"search\":{{\"mode\":\"match\"}}").as_bytes()
    ]);
    Ok(Reply::fhir(StatusCode::OK, bundle.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::subscription::tests::{of_topic, settings, subscription};
    use super::*;
    use ward_base::{SystemRandom, Timestamp};
    use ward_fhir::ResourceType;

    const BASE: &str = "https://h/fhir/R4";

    /// What is sent when Encounter/e was changed.
    fn sent(definition: &Value, change: Change) -> Request<Bytes> {
        request(definition, |notification, stored| {
            notification.change = change;
            stored.deleted = change == Change::Delete;
            true
        })
        .unwrap()
    }

    fn request(
        definition: &Value,
        happens: impl FnOnce(&mut Notification, &mut Stored) -> bool,
    ) -> Option<Request<Bytes>> {
        let definition = Definition::read(&settings(), definition).ok().unwrap();
        let key = ResourceKey {
            resource_type: ResourceType::parse("Encounter").unwrap(),
            id: ResourceId::parse("e").unwrap(),
        };
        let body = json!({
            "resourceType": "Encounter", "id": "e", "status": "planned", "class": {"code": "AMB"},
        });
        let mut stored = Stored {
            key,
            version: 2,
            updated: Timestamp(0),
            deleted: false,
            body: Phi::new(body.to_string().into_bytes()),
            patients: Vec::new(),
        };
        let mut notification = Notification {
            kind: "Encounter".to_owned(),
            id: "e".to_owned(),
            version: 2,
            change: Change::Update,
            at: Timestamp(0),
        };
        let id = ResourceId::parse("s").unwrap();
        let sender = Sender { base: BASE, id: &id, definition: &definition, events: 7 };
        let occasion = match happens(&mut notification, &mut stored) {
            true => Occasion::Event { number: 7, notification: &notification, stored: &stored },
            false => Occasion::Handshake,
        };
        sender.request(&occasion, &SystemRandom).unwrap()
    }

    fn bundle(request: &Request<Bytes>) -> Value {
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/in?x=1"));
        assert_eq!(request.headers()["content-type"], FHIR_JSON_NAME);
        assert_eq!(request.headers()["authorization"], "Bearer canary");
        let bundle: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(ward_fhir::validate::resource(&bundle), [], "{bundle}");
        bundle
    }

    fn names(bundle: &Value) -> Vec<&str> {
        let list = bundle["entry"][0]["resource"]["parameter"].as_array().unwrap();
        list.iter().map(|one| one["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_notification_holds_as_much_as_is_asked_for() {
        let full = bundle(&sent(&of_topic(&[], "full-resource"), Change::Update));
        assert_eq!(
            names(&full),
            [
                "subscription",
                "topic",
                "status",
                "type",
                "events-since-subscription-start",
                "notification-event"
            ]
        );
        let status = &full["entry"][0]["resource"]["parameter"];
        assert_eq!(status[3]["valueCode"], "event-notification");
        assert_eq!(status[4]["valueString"], "7");
        assert_eq!(status[5]["part"][0], json!({"name": "event-number", "valueString": "7"}));
        let focus = format!("{BASE}/Encounter/e");
        assert_eq!(status[5]["part"][2]["valueReference"]["reference"], focus.as_str());
        assert_eq!(full["entry"][1]["resource"]["status"], "planned");
        assert_eq!(full["entry"][1]["request"], json!({"method": "PUT", "url": "Encounter/e"}));

        let id_only = bundle(&sent(&of_topic(&[], "id-only"), Change::Create));
        assert_eq!(id_only["entry"][1]["fullUrl"], focus.as_str());
        assert_eq!(id_only["entry"][1]["request"], json!({"method": "POST", "url": "Encounter"}));
        assert_eq!(id_only["entry"][1].get("resource"), None);

        let empty = bundle(&sent(&of_topic(&[], "empty"), Change::Create));
        assert_eq!(names(&empty)[1], "status", "not even the topic");
        assert_eq!(empty["entry"].as_array().unwrap().len(), 1);
        assert!(!empty.to_string().contains("Encounter"), "{empty}");

        let deleted = bundle(&sent(&of_topic(&[], "full-resource"), Change::Delete));
        assert_eq!(deleted["entry"][1]["request"]["method"], "DELETE");
        assert_eq!(deleted["entry"][1].get("resource"), None);

        let handshake = bundle(&request(&of_topic(&[], "full-resource"), |_, _| false).unwrap());
        assert_eq!(handshake["entry"][0]["resource"]["parameter"][3]["valueCode"], "handshake");
        assert_eq!(handshake["entry"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_form_of_r4_is_an_update_or_nothing_at_all() {
        let update = sent(&subscription(), Change::Create);
        assert_eq!(
            (update.method(), update.uri().to_string().as_str()),
            (&Method::PUT, "/in/Encounter/e?x=1")
        );
        let resource: Value = serde_json::from_slice(update.body()).unwrap();
        assert_eq!(resource["id"], "e");
        let mut silent = subscription();
        silent["channel"].as_object_mut().unwrap().shift_remove("payload");
        let nudge = sent(&silent, Change::Update);
        assert_eq!((nudge.method(), nudge.uri().to_string().as_str()), (&Method::POST, "/in?x=1"));
        assert!(nudge.body().is_empty() && !nudge.headers().contains_key("content-type"));
        assert!(request(&silent, |_, _| false).is_none(), "R4 has no handshake");
    }
}
