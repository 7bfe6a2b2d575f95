//! `GET /openapi.json`: the description of the API. It is a file beside this one, and the tests below hold it to the
//! routes and to the problems that there are.

use bytes::Bytes;

use super::Response;
use super::edge::content;

const DESCRIPTION: &str = include_str!("openapi.json");

/// The description.
pub(super) fn answer() -> Response {
    content("application/json", Bytes::from_static(DESCRIPTION.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::DESCRIPTION;
    use crate::http::problem::{Kind, TYPE_PREFIX};
    use crate::http::route::{ROUTES, Route};

    fn description() -> Value {
        serde_json::from_str(DESCRIPTION).unwrap()
    }

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let mut served = BTreeSet::new();
        for entry in ROUTES.iter().filter(|entry| entry.route != Route::Unknown) {
            let methods = entry.methods.split(", ").filter(|method| *method != "HEAD");
            served.extend(methods.map(|method| (entry.path.to_owned(), method.to_lowercase())));
        }
        let mut described = BTreeSet::new();
        for (path, item) in description()["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().map(String::as_str);
            let methods = methods.filter(|method| ["get", "put", "post", "delete", "patch"].contains(method));
            described.extend(methods.map(|method| (path.clone(), method.to_owned())));
        }
        assert_eq!(served, described);
    }

    #[test]
    fn every_problem_is_described_and_every_described_problem_is_one() {
        let types = &description()["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
        let described: BTreeSet<_> =
            types.as_array().unwrap().iter().map(|slug| slug.as_str().unwrap().to_owned()).collect();
        let there_are: BTreeSet<_> = Kind::ALL.iter().map(|kind| format!("{TYPE_PREFIX}{}", kind.slug())).collect();
        assert_eq!(described, there_are);
    }

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_referred_to() {
        fn collect(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    fields.iter().for_each(|(name, value)| match (name.as_str(), value.as_str()) {
                        ("$ref", Some(reference)) => drop(found.insert(reference.to_owned())),
                        _ => collect(value, found),
                    })
                }
                Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
                _ => {}
            }
        }
        let description = description();
        let (mut found, mut defined) = (BTreeSet::new(), BTreeSet::new());
        collect(&description, &mut found);
        for (kind, components) in description["components"].as_object().unwrap() {
            defined.extend(components.as_object().unwrap().keys().map(|name| format!("#/components/{kind}/{name}")));
        }
        assert_eq!(found, defined);
    }
}
