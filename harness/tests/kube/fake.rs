//! An API server that is a function: it answers from a table and notes what it was asked.

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What was asked: method, path with query, body.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub body: Value,
}

/// An answer: status and body. None: no connection.
pub type Answer = Option<(u16, Vec<u8>)>;

/// A fake server and what it was asked so far.
#[derive(Clone, Default)]
pub struct Fake {
    pub calls: Arc<Mutex<Vec<Call>>>,
}

impl Fake {
    /// A client of this server, which answers with `answer`.
    pub fn client(&self, answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> kube::Client {
        let (calls, answer) = (self.calls.clone(), Arc::new(answer));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (calls, answer) = (calls.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let call = Call {
                    method: parts.method.to_string(),
                    path: parts.uri.to_string(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                };
                calls.lock().unwrap().push(call.clone());
                match answer(&call) {
                    Some((status, body)) => Ok(Response::builder()
                        .status(status)
                        .header("content-type", "application/json")
                        .body(Body::from(body))
                        .unwrap()),
                    None => {
                        Err(Box::<dyn std::error::Error + Send + Sync>::from("connection refused"))
                    }
                }
            }
        });
        kube::Client::new(service, "default")
    }

    /// Calls of a method whose path holds a text.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|c| c.method == method && c.path.contains(part)).count()
    }
}

/// A recorded or made answer.
pub fn ok(value: &Value) -> Answer {
    Some((200, value.to_string().into_bytes()))
}

/// A refusal as the API server words it.
pub fn refused(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    Some((code, status.to_string().into_bytes()))
}

/// An answer recorded from a real cluster.
pub fn recorded(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A list of `count` nodes made of a recorded one.
pub fn many_nodes(count: usize) -> Value {
    let mut list = recorded(include_str!("answers/nodes.json"));
    let model = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|n| n["metadata"]["name"].as_str().unwrap().ends_with("worker"))
        .unwrap()
        .clone();
    let items = (0..count).map(|i| {
        let mut node = model.clone();
        let name = format!("node-{i:04}");
        node["metadata"]["name"] = json!(name);
        node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
        node
    });
    list["items"] = Value::Array(items.collect());
    list
}
