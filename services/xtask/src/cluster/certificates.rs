//! The cluster's keys and certificates.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::node::{API_SERVICE_IP, NODE_IP};
use crate::process::run;

const DAYS: &str = "30";

/// Makes an authority, one certificate of the servers (API server and kubelet), one of the administrator, whom every
/// component acts as, and the key that signs the tokens of pods; all in `dir`.
pub fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    certificate(dir, "ca", "/CN=identity-sync throwaway cluster", &[], false)?;
    let names = format!(
        "subjectAltName=IP:{NODE_IP},IP:{API_SERVICE_IP},DNS:kubernetes,DNS:kubernetes.default,\
         DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    );
    let server = [names.as_str(), "extendedKeyUsage=serverAuth"];
    certificate(dir, "server", "/CN=kube-apiserver", &server, true)?;
    let administrator = "/O=system:masters/CN=admin";
    let client = ["extendedKeyUsage=clientAuth"];
    certificate(dir, "admin", administrator, &client, true)?;
    run(openssl(dir)
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-out", "tokens.key"]))?;
    run(openssl(dir).args(["pkey", "-in", "tokens.key", "-pubout", "-out", "tokens.pub"]))?;
    Ok(())
}

fn certificate(
    dir: &Path,
    name: &str,
    subject: &str,
    extensions: &[&str],
    signed: bool,
) -> Result<()> {
    let mut command = openssl(dir);
    command
        .args(["req", "-x509", "-noenc", "-days", DAYS, "-subj", subject])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", &format!("{name}.key")])
        .args(["-out", &format!("{name}.crt")]);
    if signed {
        command.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    run(&mut command).map(|_| ())
}

fn openssl(dir: &Path) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(dir);
    command
}
