//! Clients that are slow on purpose hold a connection for a while, and nobody else up.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use test_support::app::{App, Setup, Verdict};

const SOCKETS: usize = 2_000;
/// From the connection on.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);
/// A good client's patience, on a machine under load.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What each says at first, and then one byte a second.
fn greetings(key: &str) -> [(&'static str, Vec<u8>, &'static [u8]); 5] {
    let body = format!(
        "POST /api/v1/sms/send HTTP/1.1\r\nhost: a\r\napi-key: {key}\r\ncontent-type: application/json\r\n\
         content-length: 5000\r\n\r\n{{"
    );
    [
        ("says nothing", Vec::new(), b""),
        (
            "dribbles its headers",
            b"POST / HTTP/1.1\r\nx: ".to_vec(),
            b"x",
        ),
        (
            "stops within the preface of HTTP/2",
            PREFACE[..10].to_vec(),
            b"",
        ),
        (
            "says the preface of HTTP/2 and no more",
            PREFACE.to_vec(),
            b"",
        ),
        ("dribbles its body", body.into_bytes(), b" "),
    ]
}

/// Whether the other end has closed it; what it has said is read away.
fn is_closed(mut socket: &TcpStream) -> bool {
    let mut said = [0; 1024];
    loop {
        match socket.read(&mut said) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn two_thousand_slow_sockets_are_closed_within_30_s_and_others_are_served_meanwhile() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let address = app.replicas[0].url.trim_start_matches("http://").to_owned();
    let greetings = greetings(&user.key);

    let mut open: Vec<(Instant, usize, TcpStream)> = (0..SOCKETS)
        .map(|number| {
            let kind = number % greetings.len();
            let mut socket = TcpStream::connect(&address).expect("a connection");
            socket.write_all(&greetings[kind].1).expect("a greeting");
            socket.set_nonblocking(true).expect("a socket");
            (Instant::now(), kind, socket)
        })
        .collect();
    let mut longest = Duration::ZERO;
    while !open.is_empty() {
        open.retain(|(since, kind, socket)| {
            let (what, _, dribble) = &greetings[*kind];
            let mut writer: &TcpStream = socket;
            // Who writes to what is closed learns of it so.
            if is_closed(socket) || writer.write_all(dribble).is_err() {
                longest = longest.max(since.elapsed());
                return false;
            }
            assert!(
                since.elapsed() < CLOSED_WITHIN,
                "a client that {what} is still connected"
            );
            true
        });
        let began = Instant::now();
        let answer = app.send(&app.replicas[0], &user.key).expect("A answers");
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert!(began.elapsed() < SERVED_WITHIN, "{:?}", began.elapsed());
        thread::sleep(Duration::from_secs(1));
    }
    println!(
        "{SOCKETS} slow sockets, the last one closed after {:.1} s",
        longest.as_secs_f64()
    );
}
