//! What is decided about certificates, step by step and over decades.

use super::super::certificates::{Der, HEARD_S, Kept, Step, decide, read_pem};
use super::super::issue::{self, Pair, belongs};

const DAY: i64 = 24 * 3600;
const NOW: i64 = 1_800_000_000;

fn names() -> Vec<String> {
    vec!["hook".to_owned(), "hook.annulus-system.svc".to_owned()]
}

fn der(pair: &Pair) -> Der {
    read_pem(pair.certificate.as_bytes()).remove(0)
}

/// An authority and what it has issued, both at this time.
fn made(now_s: i64) -> (Der, Der) {
    let authority = issue::authority(now_s).unwrap();
    let serving = issue::serving(&authority, &names(), now_s).unwrap();
    (der(&authority), der(&serving))
}

/// Whether a certificate is signed by one of these.
fn is_trusted(serving: &Der, bundle: &[Der]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let (_, serving) = X509Certificate::from_der(serving).unwrap();
    bundle.iter().any(|authority| {
        let (_, authority) = X509Certificate::from_der(authority).unwrap();
        serving.verify_signature(Some(authority.public_key())).is_ok()
    })
}

fn decided(kept: &Kept, trusted: &[Vec<Der>], trusted_for_s: i64, now_s: i64) -> Step {
    decide(Some(kept), trusted, trusted_for_s, now_s, &names())
}

#[test]
fn a_settled_webhook_waits_and_looks_again_within_the_hour() {
    let (authority, serving) = made(NOW);
    let kept = Kept { authorities: vec![authority.clone()], has_key: true, serving: Some(serving) };
    let trusted = [vec![authority.clone()], vec![authority]];
    for day in [0, 1, 59] {
        assert_eq!(decided(&kept, &trusted, 0, NOW + day * DAY), Step::Wait(3600), "{day}");
    }
    assert_eq!(decided(&kept, &trusted, 0, NOW + 60 * DAY), Step::Issue);
    assert_eq!(decided(&kept, &trusted, 0, NOW + 100 * DAY), Step::Issue, "it has ended meanwhile");
    assert_eq!(decided(&kept, &[], 0, NOW), Step::Wait(3600), "there is no webhook to be trusted");
}

#[test]
fn each_thing_that_is_missing_or_wrong_is_put_right() {
    let (authority, serving) = made(NOW);
    let (other, others) = made(NOW);
    let kept = Kept { authorities: vec![authority.clone()], has_key: true, serving: Some(serving) };
    let right = [vec![authority.clone()], vec![authority.clone()]];
    let begin = |beside: &[&Der]| Step::Begin { beside: beside.iter().map(|der| (*der).clone()).collect() };

    // Nothing is kept: what is trusted so far stays so, since it may be served.
    assert_eq!(decide(None, &[], 0, NOW, &names()), begin(&[]));
    assert_eq!(decide(None, &[vec![], vec![]], 0, NOW, &names()), begin(&[]));
    assert_eq!(decide(None, &right, 0, NOW, &names()), begin(&[&authority]));
    // The key is gone, or the authority is no authority, or has ended.
    let keyless = Kept { has_key: false, ..kept.clone() };
    assert_eq!(decided(&keyless, &right, 0, NOW), begin(&[&authority]));
    let leaf = Kept { authorities: vec![others.clone()], ..kept.clone() };
    assert_eq!(decided(&leaf, &right, 0, NOW), begin(&[&authority]));
    assert_eq!(decided(&kept, &right, 0, NOW + 4000 * DAY), begin(&[]));
    // Somebody has changed what is trusted, of one webhook or of both.
    for wrong in [vec![], vec![other.clone()], vec![authority.clone(), other.clone()]] {
        assert_eq!(decided(&kept, &[right[0].clone(), wrong.clone()], 0, NOW), Step::Trust);
        assert_eq!(decided(&kept, &[wrong], 1000, NOW), Step::Trust);
    }
    // What is served is missing, somebody else's, or for other names.
    for serving in [None, Some(others)] {
        assert_eq!(decided(&Kept { serving, ..kept.clone() }, &right, 0, NOW), Step::Issue);
    }
    let renamed = decide(Some(&kept), &right, 0, NOW, &["other.annulus-system.svc".to_owned()]);
    assert_eq!(renamed, Step::Issue);
}

#[test]
fn nothing_is_issued_by_a_new_authority_before_every_api_server_has_heard_of_it() {
    let (old, serving) = made(NOW - 3000 * DAY);
    let (new, _) = made(NOW);
    let kept = Kept { authorities: vec![new.clone(), old.clone()], has_key: true, serving: Some(serving) };
    let trusted = [kept.authorities.clone()];
    assert_eq!(decided(&kept, &[vec![old]], 100, NOW), Step::Trust);
    assert_eq!(decided(&kept, &trusted, 0, NOW), Step::Wait(HEARD_S));
    assert_eq!(decided(&kept, &trusted, HEARD_S - 1, NOW), Step::Wait(1));
    assert_eq!(decided(&kept, &trusted, HEARD_S, NOW), Step::Issue);
}

#[test]
fn what_was_trusted_before_has_a_bound() {
    let many: Vec<Der> = (0..6).map(|_| made(NOW).0).collect();
    let Step::Begin { beside } = decide(None, &[many.clone(), many], 0, NOW, &names()) else { panic!() };
    assert_eq!(beside.len(), 3);
}

/// What is kept, carried out in memory.
struct Life {
    now_s: i64,
    key: Option<Pair>,
    kept: Option<Kept>,
    trusted: Vec<Der>,
    trusted_at_s: i64,
    /// What replicas may serve: what is kept, and what was before, for as long as one may not have heard.
    served: Vec<(i64, Der)>,
    steps: Vec<&'static str>,
}

impl Life {
    fn step(&mut self) {
        let trusted = [self.trusted.clone()];
        let trusted_for_s = self.now_s - self.trusted_at_s;
        match decide(self.kept.as_ref(), &trusted, trusted_for_s, self.now_s, &names()) {
            Step::Begin { beside } => {
                self.steps.push("begin");
                let pair = issue::authority(self.now_s).unwrap();
                let authorities = std::iter::once(der(&pair)).chain(beside).collect();
                let serving = self.kept.take().and_then(|kept| kept.serving);
                self.kept = Some(Kept { authorities, has_key: true, serving });
                self.key = Some(pair);
            }
            Step::Trust => {
                self.steps.push("trust");
                self.trusted = self.kept.as_ref().unwrap().authorities.clone();
                self.trusted_at_s = self.now_s;
            }
            Step::Issue => {
                self.steps.push("issue");
                let pair = issue::serving(self.key.as_ref().unwrap(), &names(), self.now_s).unwrap();
                self.kept.as_mut().unwrap().serving = Some(der(&pair));
                self.served.push((self.now_s, der(&pair)));
            }
            Step::Forget => {
                self.steps.push("forget");
                self.kept.as_mut().unwrap().authorities.truncate(1);
            }
            Step::Wait(seconds) if seconds < 3600 => self.now_s += seconds,
            Step::Wait(_) => self.now_s += DAY,
        }
        self.check();
    }

    /// Whatever a replica serves is trusted. One hears of a new certificate within some minutes.
    fn check(&mut self) {
        let newest = self.served.last().map_or(i64::MAX, |(at, _)| *at);
        let is_heard = self.now_s - newest > 600;
        if is_heard {
            self.served.drain(..self.served.len() - 1);
        }
        for (_, serving) in &self.served {
            assert!(is_trusted(serving, &self.trusted), "{:?} at {}", self.steps, self.now_s);
        }
    }
}

#[test]
fn over_decades_and_when_the_secret_is_deleted_whatever_is_served_is_trusted() {
    let mut life = Life {
        now_s: NOW,
        key: None,
        kept: None,
        trusted: Vec::new(),
        trusted_at_s: NOW,
        served: Vec::new(),
        steps: Vec::new(),
    };
    while life.now_s < NOW + 15 * 365 * DAY {
        life.step();
    }
    assert_eq!(life.steps[..3], ["begin", "trust", "issue"]);
    assert_eq!(life.steps.iter().filter(|step| **step == "begin").count(), 3, "{:?}", life.steps);
    assert!(life.steps.iter().filter(|step| **step == "issue").count() >= 90);
    life.steps.clear();
    life.kept = None;
    while life.steps.last() != Some(&"trust") || life.steps.len() < 5 {
        life.step();
    }
    assert_eq!(life.steps, ["begin", "trust", "issue", "forget", "trust"]);
}

#[test]
fn a_key_is_told_from_another() {
    let (one, other) = (issue::authority(NOW).unwrap(), issue::authority(NOW).unwrap());
    assert!(belongs(one.certificate.as_bytes(), &one.key));
    assert!(!belongs(one.certificate.as_bytes(), &other.key));
    assert!(!belongs(b"", &one.key) && !belongs(one.certificate.as_bytes(), "") && !belongs(b"", ""));
    assert!(read_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_empty());
    assert!(read_pem(one.key.as_bytes()).is_empty(), "a key is no certificate");
}
