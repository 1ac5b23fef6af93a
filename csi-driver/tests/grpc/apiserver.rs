//! An API server in memory: objects by path, made, read, listed and deleted. Nothing in it binds claims or starts pods; a
//! test says what these would have done.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_csi::claims::Kubernetes;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request, Response};

const KINDS: [&str; 6] =
    ["persistentvolumes", "persistentvolumeclaims", "volumeattachments", "namespaces", "pods", "events"];

#[derive(Clone, Default)]
pub struct ApiServer {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl ApiServer {
    /// Of a cluster with that uid.
    pub fn of(uid: &str) -> ApiServer {
        let server = ApiServer::default();
        server.put("/api/v1/namespaces/kube-system", json!({"metadata": {"name": "kube-system", "uid": uid}}));
        server
    }

    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, path: &str, object: Value) {
        self.objects().insert(path.into(), object);
    }

    pub fn remove(&self, path: &str) {
        self.objects().remove(path).unwrap_or_else(|| panic!("{path} is not there"));
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects().get(path).cloned()
    }

    /// Paths of what there is, but for namespaces.
    pub fn paths(&self) -> Vec<String> {
        let is_namespace = |path: &str| path.rsplit('/').nth(1) == Some("namespaces");
        self.objects().keys().filter(|path| !is_namespace(path)).cloned().collect()
    }

    pub fn client(&self) -> Kubernetes {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Kubernetes::with(kube::Client::new(service, "default"))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().trim_end_matches('/').to_string());
        let bytes = request.into_body().collect_bytes().await.expect("the body");
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let collection = KINDS.contains(&path.rsplit('/').next().unwrap_or_default());
        let mut objects = self.objects();
        let (code, answer) = match (method, collection) {
            (Method::GET, true) => {
                let inside = |key: &&String| key.rsplit_once('/').is_some_and(|(folder, _)| folder == path);
                let items: Vec<Value> = objects.keys().filter(inside).map(|key| objects[key].clone()).collect();
                (200, json!({"metadata": {}, "items": items}))
            }
            (Method::GET, false) => match objects.get(&path) {
                Some(object) => (200, object.clone()),
                None => refused(404, "NotFound"),
            },
            (Method::POST, _) => {
                let name = body["metadata"]["name"].as_str().expect("a name");
                let key = format!("{path}/{name}");
                if objects.contains_key(&key) {
                    refused(409, "AlreadyExists")
                } else {
                    let mut made = body;
                    made["metadata"]["uid"] = json!(format!("uid-{}", objects.len()));
                    objects.insert(key, made.clone());
                    (201, made)
                }
            }
            (Method::DELETE, _) => match objects.get(&path) {
                None => refused(404, "NotFound"),
                Some(object) if object["metadata"]["uid"] != body["preconditions"]["uid"] => refused(409, "Conflict"),
                Some(_) => {
                    objects.remove(&path);
                    (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
                }
            },
            (other, _) => panic!("{other} {path} is not in the fake"),
        };
        let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
        Response::builder().status(code).body(answer).expect("a response")
    }
}

fn refused(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason,
        "code": code
    });
    (code, status)
}
