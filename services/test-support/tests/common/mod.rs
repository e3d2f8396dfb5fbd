//! Certificates for servers of one test.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use test_support::servers::TlsFiles;

/// An authority and a certificate that it signed for the loopback.
pub fn tls_files(dir: &Path) -> TlsFiles {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &authority))
        .expect("a certificate");
    let write = |name: &str, pem: String| {
        let file = dir.join(name);
        fs::write(&file, pem).expect("a file");
        file
    };
    TlsFiles {
        certificate: write("cert.pem", certificate.pem()),
        key: write("key.pem", key.serialize_pem()),
        authority: write("ca.pem", authority.as_ref().pem()),
    }
}
