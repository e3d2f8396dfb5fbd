//! The spine, on real servers and with real processes: a user change reaches an SMS.
//! Run by `cargo xtask test`.

#[path = "../common/mod.rs"]
mod common;

mod cache_sync;
mod canary;
mod malformed;
mod proof;
mod sends;
mod shutdown;
mod startup;
mod tls;
mod write_paths;

use std::net::SocketAddr;

use test_support::TcpRelay;
use test_support::app::Setup;

/// A relay in front of the server that a URL names, and the URL that goes through it.
fn through_relay(url: &str) -> (TcpRelay, String) {
    let (front, rest) = url.split_once('@').expect("a URL with a user");
    let (address, path) = rest.split_once('/').expect("a URL with a path");
    let target: SocketAddr = address.parse().expect("an address and a port");
    let relay = TcpRelay::start(target).expect("the relay starts");
    let url = format!("{front}@{}/{path}", relay.address());
    (relay, url)
}

/// A relay between the replicas and the broker.
fn relay_for_replicas(setup: &mut Setup) -> TcpRelay {
    let (relay, url) = through_relay(&setup.a_rabbitmq_url);
    setup.a_rabbitmq_url = url;
    relay
}

/// A relay between server B and the broker.
fn relay_for_b(setup: &mut Setup) -> TcpRelay {
    let (relay, url) = through_relay(&setup.b_rabbitmq_url);
    setup.b_rabbitmq_url = url;
    relay
}
