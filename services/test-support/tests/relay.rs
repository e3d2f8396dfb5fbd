//! The relay's link, broken in each way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use test_support::{Link, TcpRelay, eventually};

const DEADLINE: Duration = Duration::from_secs(10);

/// Sends back what it gets.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

fn connect(relay: &TcpRelay) -> TcpStream {
    let stream = TcpStream::connect(relay.address()).expect("the relay accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a valid timeout");
    stream
}

fn echo(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    receive(stream, text.len())
}

fn receive(stream: &mut TcpStream, length: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer)?;
    Ok(String::from_utf8(buffer).expect("text"))
}

/// Sends `text` and gets nothing back for a while.
fn assert_silent(stream: &mut TcpStream, text: &str) {
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a valid timeout");
    let silence = echo(stream, text).expect_err("silence");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a valid timeout");
}

#[test]
fn bytes_are_forwarded_and_counted_both_ways() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let mut stream = connect(&relay);
    assert_eq!(echo(&mut stream, "hello").expect("an echo"), "hello");
    assert_eq!((relay.bytes_to_server(), relay.bytes_to_client()), (5, 5));
    assert_eq!(relay.connections(), 1);

    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    drop(stream);
    eventually(DEADLINE, "the connection to be forgotten", || {
        relay.connections() == 0
    });
}

#[test]
fn a_cut_link_closes_connections_until_it_is_healed() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let mut stream = connect(&relay);
    echo(&mut stream, "hello").expect("an echo");

    relay.set_link(Link::Down);
    assert!(echo(&mut stream, "hello").is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    assert!(echo(&mut connect(&relay), "hello").is_err());
    assert_eq!(relay.connections(), 0);

    relay.set_link(Link::Up);
    assert_eq!(
        echo(&mut connect(&relay), "hello").expect("an echo"),
        "hello"
    );
}

#[test]
fn one_cut_closes_what_is_open_and_lets_new_connections_through() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let mut stream = connect(&relay);
    echo(&mut stream, "hello").expect("an echo");
    relay.cut_once();
    assert!(echo(&mut stream, "hello").is_err());
    assert_eq!(
        echo(&mut connect(&relay), "hello").expect("an echo"),
        "hello"
    );
}

#[test]
fn a_silent_link_keeps_connections_and_delivers_nothing_until_it_is_healed() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let mut old = connect(&relay);
    echo(&mut old, "hello").expect("an echo");

    relay.set_link(Link::Silent);
    let mut new = connect(&relay);
    for stream in [&mut old, &mut new] {
        assert_silent(stream, "again");
    }
    assert_eq!(relay.bytes_to_server(), 5);

    relay.set_link(Link::Up);
    for stream in [&mut old, &mut new] {
        assert_eq!(receive(stream, 5).expect("what was held back"), "again");
    }
}

#[test]
fn connections_that_name_themselves_so_are_silent_while_others_go_on() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let (mut named, mut other) = (connect(&relay), connect(&relay));
    echo(&mut named, "I am the subscriber").expect("an echo");
    echo(&mut other, "I am the publisher").expect("an echo");

    relay.silence_naming(Some("subscriber"));
    assert_silent(&mut named, "again");
    assert_eq!(echo(&mut other, "again").expect("an echo"), "again");
    // The name may come in parts: what it completes is held back.
    let mut new = connect(&relay);
    echo(&mut new, "I am the sub").expect("an echo");
    assert_silent(&mut new, "scriber");

    relay.silence_naming(None);
    assert_eq!(receive(&mut named, 5).expect("held back"), "again");
    assert_eq!(receive(&mut new, 7).expect("held back"), "scriber");
}

#[test]
fn a_dropped_relay_frees_its_port() {
    let relay = TcpRelay::start(echo_server()).expect("a relay");
    let mut stream = connect(&relay);
    echo(&mut stream, "hello").expect("an echo");
    let address = relay.address();
    drop(relay);
    assert!(echo(&mut stream, "hello").is_err());
    eventually(DEADLINE, "the port to be free", || {
        TcpListener::bind(address)
    });
}
