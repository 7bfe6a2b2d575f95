//! The server as a `tower::Service`: takes requests, and answers them as the real one does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use kube::client::Body;
use serde_json::{Value, json};

use super::error::Error;
use super::faults::Fault;
use super::request::{Call, PatchType, Verb};
use super::resources::{Key, Kind};
use super::verbs::{Deletion, Part, Patch, STATUS, Writer};
use super::watch::{WatchBody, metadata_of};
use super::{Server, Session, Write, lock};

type Answer = Response<Either<Full<Bytes>, WatchBody>>;

/// What one session's client sends its requests to.
pub(super) struct ApiService {
    session: Session,
}

impl ApiService {
    pub(super) fn new(session: Session) -> Self {
        Self { session }
    }
}

impl tower::Service<Request<Body>> for ApiService {
    type Response = Answer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let session = self.session.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            session.answer(&parts, &body)
        })
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection closed before message completed")
}

/// What a request came to.
struct Done {
    code: u16,
    object: Value,
}

impl Session {
    fn answer(&self, parts: &Parts, body: &Bytes) -> io::Result<Answer> {
        let mut server = lock(&self.server);
        if server.sessions[self.number].is_cut {
            return Err(closed());
        }
        if parts.uri.path() == "/version" {
            return Ok(full(
                200,
                &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "simulated"}),
            ));
        }
        let call = match Call::parse(parts) {
            Ok(call) => call,
            Err(error) => return Ok(refused(&error)),
        };
        *server.requests.entry(format!("{:?} {}", call.verb, call.kind.full_name())).or_default() += 1;
        let Server { faults, store, .. } = &mut *server;
        let fault = faults.strike(&call, || store.random());
        match &fault {
            Some(Fault::LoseRequest) => return Err(closed()),
            Some(Fault::Missing) => return Ok(refused(&Error::NoSuchPath)),
            Some(Fault::Refuse { code, reason }) => return Ok(refused(&injected(&call, *code, reason))),
            _ => {}
        }
        if call.verb == Verb::Watch {
            return match WatchBody::new(&self.server, &server, self.number, &call) {
                Ok(body) => Ok(response(200, "application/json", Either::Right(body))),
                Err(error) => Ok(refused(&error)),
            };
        }
        let done = if call.verb.is_write() {
            self.write(&mut server, &call, body)
        } else {
            server.read(&call, fault.as_ref())
        };
        if fault == Some(Fault::LoseAnswer) {
            return Err(closed());
        }
        match done {
            Ok(done) => {
                let object =
                    if call.metadata_only && call.verb != Verb::List { metadata_of(&done.object) } else { done.object };
                Ok(full(done.code, &object))
            }
            Err(error) => Ok(refused(&error)),
        }
    }

    fn write(&self, server: &mut Server, call: &Call, body: &Bytes) -> Result<Done, Error> {
        let body: Value = if body.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(body).map_err(|error| Error::BadRequest(format!("unreadable body: {error}")))?
        };
        let is_dry = call.query.get("dryRun") == "All" || body["dryRun"] == json!(["All"]);
        if is_dry {
            let store = server.store.clone();
            let done = server.change(call, &body);
            server.store = store;
            return done;
        }
        let before = server.store.version();
        let done = server.change(call, &body)?;
        let name = done.object["metadata"]["name"].as_str().unwrap_or(&call.name).to_owned();
        server.wrote(Write {
            session: self.number,
            verb: call.verb,
            resource: call.kind.full_name(),
            subresource: call.subresource.clone().unwrap_or_default(),
            namespace: call.namespace.clone().unwrap_or_default(),
            name,
            changed: server.store.version() != before,
        });
        Ok(done)
    }
}

fn injected(call: &Call, code: u16, reason: &'static str) -> Error {
    let message = match code {
        403 => {
            let verb = format!("{:?}", call.verb).to_lowercase();
            format!(
                "{} \"{}\" is forbidden: User \"system:serviceaccount:simulated\" cannot {verb} resource \"{}\" in API \
                 group \"{}\"",
                call.kind.full_name(),
                call.name,
                call.kind.resource().plural,
                call.kind.resource().group
            )
        }
        409 => Error::modified(&call.key()).to_string(),
        _ => format!("Internal error occurred: simulated fault of {} {}", call.kind.full_name(), call.name),
    };
    Error::Injected { code, reason, message }
}

fn response(code: u16, content_type: &'static str, body: Either<Full<Bytes>, WatchBody>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a fault's code is an HTTP status");
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    response
}

fn full(code: u16, object: &Value) -> Answer {
    response(code, "application/json", Either::Left(Full::new(Bytes::from(object.to_string()))))
}

fn refused(error: &Error) -> Answer {
    if *error == Error::NoSuchPath {
        let text = Bytes::from_static(b"404 page not found\n");
        return response(404, "text/plain; charset=utf-8", Either::Left(Full::new(text)));
    }
    full(error.code(), &error.status())
}

impl Server {
    fn read(&self, call: &Call, fault: Option<&Fault>) -> Result<Done, Error> {
        let newest = self.store.version();
        let asked = call.query.number("resourceVersion")?.unwrap_or(0);
        if asked > newest {
            return Err(Error::TooLarge { asked, current: newest });
        }
        let mut version = match fault {
            // Nothing older than what was asked for, however stale.
            Some(Fault::Stale { writes, .. }) => newest.saturating_sub(*writes).max(asked).max(self.store.oldest()),
            _ if call.query.get("resourceVersionMatch") == "Exact" => asked,
            _ => newest,
        };
        if call.verb == Verb::Get {
            let key = call.key();
            if version == newest {
                return Ok(Done { code: 200, object: Value::clone(&self.store.entry(&key)?.object) });
            }
            let namespace = call.namespace.as_deref();
            let found = self.store.list_at(call.kind, namespace, version)?.into_iter().find(|(at, _)| *at == key);
            let (_, object) = found.ok_or_else(|| Error::not_found(&key))?;
            return Ok(Done { code: 200, object: Value::clone(&object) });
        }
        let mut after = None;
        let token = call.query.get("continue");
        if !token.is_empty() {
            let (from, key) = read_token(call.kind, token)?;
            version = from;
            after = Some(key);
        }
        let limit = call.query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let mut objects = self.store.list_at(call.kind, call.namespace.as_deref(), version)?;
        objects.retain(|(key, object)| {
            call.selection.matches(key, object) && after.as_ref().is_none_or(|after| key > after)
        });
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if limit > 0 && objects.len() > limit {
            metadata["remainingItemCount"] = json!(objects.len() - limit);
            objects.truncate(limit);
            metadata["continue"] = json!(objects.last().map(|(key, _)| write_token(version, key)));
        }
        Ok(Done { code: 200, object: list_object(call, metadata, &objects) })
    }

    fn change(&mut self, call: &Call, body: &Value) -> Result<Done, Error> {
        let part = if call.subresource.as_deref() == Some(STATUS) { Part::Status } else { Part::Main };
        let manager = match call.query.get("fieldManager") {
            "" if call.patch == Some(PatchType::Apply) => {
                let why = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
                return Err(Error::BadRequest(why.to_owned()));
            }
            "" => "unknown",
            manager => manager,
        };
        let writer = Writer { manager, part };
        let key = call.key();
        let object = match call.verb {
            Verb::Create => {
                let object = addressed(call, body)?;
                return Ok(Done { code: 201, object: Value::clone(&*self.store.create(call.kind, object, writer)?) });
            }
            Verb::Update => {
                addressed(call, body)?;
                self.store.update(&key, Patch::Replace(body), writer)?
            }
            Verb::Patch => match call.patch {
                Some(PatchType::Apply) => {
                    let applied = addressed(call, body)?;
                    let force = call.query.is("force");
                    let (object, made) = self.store.apply(&key, &applied, writer, force)?;
                    return Ok(Done { code: if made { 201 } else { 200 }, object: Value::clone(&object) });
                }
                Some(PatchType::Json) => {
                    let patch = serde_json::from_value(body.clone())
                        .map_err(|error| Error::BadRequest(format!("unreadable patch: {error}")))?;
                    self.store.update(&key, Patch::Json(&patch), writer)?
                }
                Some(PatchType::Strategic) => self.store.update(&key, Patch::Strategic(body), writer)?,
                _ => self.store.update(&key, Patch::Merge(body), writer)?,
            },
            Verb::DeleteCollection => return self.delete_collection(call, body),
            _ => match self.store.delete(&key, &deletion(body))? {
                Some(object) => object,
                None => return Ok(Done { code: 200, object: deleted(&key) }),
            },
        };
        Ok(Done { code: 200, object: Value::clone(&object) })
    }

    fn delete_collection(&mut self, call: &Call, body: &Value) -> Result<Done, Error> {
        let objects = self.store.list(call.kind, call.namespace.as_deref());
        let mut gone = Vec::new();
        for (key, object) in objects.into_iter().filter(|(key, object)| call.selection.matches(key, object)) {
            self.store.delete(&key, &deletion(body))?;
            gone.push((key, object));
        }
        let metadata = json!({"resourceVersion": self.store.version().to_string()});
        Ok(Done { code: 200, object: list_object(call, metadata, &gone) })
    }
}

/// The object as it was sent, with the namespace and kind of the path, which it must not contradict.
fn addressed(call: &Call, body: &Value) -> Result<Value, Error> {
    let resource = call.kind.resource();
    let mut object = body.clone();
    if !object.is_object() {
        return Err(Error::BadRequest("the object is none".to_owned()));
    }
    let is_apply = call.patch == Some(PatchType::Apply);
    for (field, wanted) in [("kind", resource.kind.to_owned()), ("apiVersion", call.kind.api_version())] {
        let found = object[field].as_str().unwrap_or_default();
        if found != wanted && (!found.is_empty() || is_apply) {
            return Err(Error::BadRequest(format!("{field} in the object is {found:?}, and not {wanted:?}")));
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if let Some(namespace) = &call.namespace {
        let found = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
        if found != namespace {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Error::BadRequest(why.to_owned()));
        }
        object["metadata"]["namespace"] = json!(namespace);
    }
    Ok(object)
}

fn deletion(body: &Value) -> Deletion {
    let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Deletion {
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        grace_seconds: body["gracePeriodSeconds"].as_i64(),
    }
}

fn deleted(key: &Key) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": key.name, "group": key.kind.resource().group, "kind": key.kind.resource().plural},
    })
}

fn list_object(call: &Call, metadata: Value, objects: &[(Key, Arc<Value>)]) -> Value {
    // Items of a list do not say what they are, as those of built-in resources do not.
    let item = |object: &Arc<Value>| {
        if call.metadata_only {
            return metadata_of(object);
        }
        let mut item = Value::clone(object);
        if !call.kind.resource().custom
            && let Some(item) = item.as_object_mut()
        {
            item.remove("kind");
            item.remove("apiVersion");
        }
        item
    };
    let items: Vec<Value> = objects.iter().map(|(_, object)| item(object)).collect();
    json!({
        "kind": format!("{}List", call.kind.resource().kind), "apiVersion": call.kind.api_version(),
        "metadata": metadata, "items": items,
    })
}

/// Where the next page begins. Names hold no slash.
fn write_token(version: u64, last: &Key) -> String {
    format!("{version}/{}/{}", last.namespace, last.name)
}

fn read_token(kind: Kind, token: &str) -> Result<(u64, Key), Error> {
    let bad = || Error::BadRequest("continue key is not valid".to_owned());
    let mut parts = token.splitn(3, '/');
    let version = parts.next().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
    let (namespace, name) = (parts.next().ok_or_else(bad)?, parts.next().ok_or_else(bad)?);
    Ok((version, Key::new(kind, namespace, name)))
}
