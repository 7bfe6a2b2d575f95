//! Counts what is asked of the API server: a settled operator asks nothing but watches and its lease.

use http::{Method, Request};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::util::MapRequestLayer;

/// What was asked, as Kubernetes names it in roles.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    /// Such as `get` or `watch`.
    pub verb: String,
    /// Such as `pods` or `storageclusters/status`.
    pub resource: String,
}

/// Requests, by what they asked.
pub type Requests = Family<Asked, Counter>;

/// A client as the pod or the kubeconfig says, whose requests are counted.
pub async fn client(requests: Requests) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let config = Config::infer().await?;
    let count = MapRequestLayer::new(move |request: Request<Body>| {
        requests.get_or_create(&asked(&request)).inc();
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&count).build())
}

/// What a request asks. A path is `/api/v1` or `/apis/GROUP/VERSION`, then `/namespaces/NAMESPACE` unless it is of all of them, then
/// `/RESOURCE`, `/NAME` and `/SUBRESOURCE` as far as there are any.
fn asked<B>(request: &Request<B>) -> Asked {
    let mut path = request.uri().path().split('/').filter(|part| !part.is_empty());
    match path.next() {
        Some("api") => drop(path.next()),
        _ => drop((path.next(), path.next())),
    }
    let mut path: Vec<&str> = path.collect();
    if path.len() > 2 && path[0] == "namespaces" {
        path.drain(..2);
    }
    let resource = match path.as_slice() {
        [resource, _, below, ..] => format!("{resource}/{below}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    let query = request.uri().query().unwrap_or_default();
    let is_watch = query.split('&').any(|part| part == "watch=true" || part == "watch=1");
    let verb = match *request.method() {
        Method::GET if is_watch => "watch",
        Method::GET if path.len() < 2 => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    Asked { verb: verb.to_owned(), resource }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_as_roles_name_it() {
        let cases = [
            (Method::GET, "/api/v1/pods?watch=true&resourceVersion=7", "watch pods"),
            (Method::GET, "/api/v1/namespaces/default/pods?labelSelector=a%3Db", "list pods"),
            (Method::GET, "/apis/annulus.dev/v1alpha1/namespaces/a/storageclusters/demo", "get storageclusters"),
            (
                Method::PATCH,
                "/apis/annulus.dev/v1alpha1/namespaces/a/storageclusters/demo/status?fieldManager=x",
                "patch storageclusters/status",
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/it", "update leases"),
            (Method::DELETE, "/api/v1/namespaces/a/pods/demo-1", "delete pods"),
            (Method::POST, "/api/v1/namespaces/a/persistentvolumeclaims", "create persistentvolumeclaims"),
            (Method::GET, "/api/v1/nodes", "list nodes"),
            (Method::GET, "/", "list "),
        ];
        for (method, uri, wanted) in cases {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let Asked { verb, resource } = asked(&request);
            assert_eq!(format!("{verb} {resource}"), wanted, "{uri}");
        }
    }
}
