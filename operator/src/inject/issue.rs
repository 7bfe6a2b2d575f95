//! Makes authorities and certificates. Nothing is decided here.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::certificates::{AUTHORITY_S, BACKDATED_S, SERVING_S};

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, in PKCS #8.
    pub key: String,
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a certificate can't be made")]
pub struct Error(#[from] rcgen::Error);

/// A new authority, which vouches for what it issues and for nothing else.
pub fn authority(now_s: i64) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    // Each has a name of its own: of two with one name, only one would be tried.
    parameters.distinguished_name = named(&format!("annulus-operator webhook {now_s}"));
    (parameters.not_before, parameters.not_after) = times(now_s, AUTHORITY_S);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = parameters.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A certificate for a server of these names.
pub fn serving(authority: &Pair, names: &[String], now_s: i64) -> Result<Pair, Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(names.to_vec())?;
    parameters.distinguished_name = named("annulus-operator webhook");
    (parameters.not_before, parameters.not_after) = times(now_s, SERVING_S);
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = parameters.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Whether a key is this certificate's. Both are in PEM; the certificate may be followed by others.
pub fn belongs(certificate: &[u8], key: &str) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let Ok(key) = KeyPair::from_pem(key) else { return false };
    let first = super::certificates::read_pem(certificate).into_iter().next();
    let of_certificate = first.and_then(|der| {
        let (_, read) = X509Certificate::from_der(&der).ok()?;
        Some(read.public_key().subject_public_key.data.to_vec())
    });
    of_certificate.is_some_and(|public| public == key.public_key_raw())
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn times(now_s: i64, lasts_s: i64) -> (OffsetDateTime, OffsetDateTime) {
    let at = |second: i64| OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (at(now_s - BACKDATED_S), at(now_s - BACKDATED_S + lasts_s))
}
