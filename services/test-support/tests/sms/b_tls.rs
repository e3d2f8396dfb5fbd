//! A gateway whose certificate no authority of the system has signed.

use std::env;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use test_support::children::{self, Launch, Process};
use test_support::servers::{TlsFiles, free_port};

use super::b_gateway::Gateway;
use super::b_world::World;
use super::common::tls_files;

/// The gateway behind a program that speaks TLS for it.
struct Front {
    gateway: Gateway,
    port: u16,
    tls: TlsFiles,
    _process: Process,
    _dir: TempDir,
}

impl Front {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let tls = tls_files(dir.path());
        let gateway = Gateway::start("first");
        let port = free_port(None).expect("a port");
        let mark = env::var_os(children::MARK).unwrap_or_default();
        let mut command =
            children::command(Path::new("socat"), Path::new(&mark), Launch::default());
        command.arg(format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={},key={}",
            tls.certificate.display(),
            tls.key.display()
        ));
        command.arg(format!("TCP:{}", gateway.address()));
        Self {
            gateway,
            port,
            tls,
            _process: children::spawn(command).expect("socat starts"),
            _dir: dir,
        }
    }

    /// A server B that trusts who signed the certificates of `trusted`.
    fn world(&self, trusted: &TlsFiles) -> World {
        let world = World::new();
        let file = json!({
            "providers": {"first": {"http": {
                "url": format!("https://localhost:{}/v1/messages", self.port),
                "ca_file": trusted.authority,
                "request": {"to": "/message/to", "from": "sender", "body": "/message/text"},
                "message_id": "/data/id",
            }}},
            "routes": [{"prefix": "", "providers": ["first"]}],
        });
        let file = world.write("providers.yaml", &file.to_string());
        world.env("PROVIDERS_FILE", &file).started()
    }
}

#[test]
fn a_gateway_is_trusted_whose_authority_the_file_names() {
    let front = Front::start();
    let world = front.world(&front.tls);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until("SELECT status FROM sms_messages", "sent");
    assert_eq!(front.gateway.asked().len(), 1);
}

#[test]
fn a_gateway_of_another_authority_gets_neither_an_sms_nor_a_secret() {
    let (front, stranger) = (Front::start(), Front::start());
    let world = front.world(&stranger.tls);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(
        "SELECT error_code FROM sms_messages WHERE failures > 0",
        "provider_unreachable",
    );
    assert!(front.gateway.asked().is_empty());
}
