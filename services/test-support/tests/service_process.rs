//! Services as child processes, here played by a shell script.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use tempfile::TempDir;
use test_support::children::{Signal, kill_leftovers};
use test_support::{ServiceCommand, ServiceProcess};

const DEADLINE: Duration = Duration::from_secs(20);

fn service(script: &str) -> (TempDir, ServiceCommand) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("service");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("own file");
    let command = ServiceCommand::new("service")
        .bin_dir(dir.path())
        .state_dir(dir.path());
    (dir, command)
}

/// A service that runs until it is told to end, and has started for sure.
fn running(script: &str) -> (TempDir, ServiceProcess) {
    let line = r#"{"fields":{"message":"listening","server":"public","address":"127.0.0.1:80"}}"#;
    let (dir, command) = service(&format!("{script}\necho '{line}'\nsleep 600 &\nwait"));
    let service = command.start().expect("a start");
    let address = service
        .wait_for_address("public", DEADLINE)
        .expect("an address");
    assert_eq!(address.port(), 80);
    (dir, service)
}

#[test]
fn output_and_status_of_a_service_are_seen() {
    let (dir, command) = service("echo \"$1 $GREETING ${HOME-none}\"; echo oops >&2; exit 3");
    let log = dir.path().join("log");
    let command = command.arg("first").env("GREETING", "hello").log(&log);
    let service = command.start().expect("a start");
    assert_eq!(service.wait_exit(DEADLINE).expect("an end").code(), Some(3));
    let mut lines: Vec<String> = service.output().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["first hello none", "oops"]);
    assert_eq!(fs::read_to_string(log).expect("the log"), service.output());
}

#[test]
fn a_service_that_ends_early_is_not_waited_for() {
    let (_dir, command) = service("echo 'no such database'; exit 1");
    let service = command.start().expect("a start");
    let error = service
        .wait_for_address("public", Duration::from_hours(1))
        .expect_err("no address");
    assert!(
        format!("{error:#}").contains("no such database"),
        "{error:#}"
    );
}

#[test]
fn a_service_can_be_asked_to_end() {
    let (_dir, service) = running("trap 'kill $!; exit 0' TERM");
    service.terminate().expect("a signal");
    assert!(service.wait_exit(DEADLINE).expect("an end").success());
    // Nobody is there any more, which is no error.
    service.terminate().expect("no signal");
}

#[test]
fn a_killed_service_takes_its_children_along() {
    let (dir, service) = running("");
    assert_eq!(
        service.kill9().expect("an end").signal(),
        Some(Signal::KILL.as_raw())
    );
    // Killed means that the signal was sent; the kernel may need a moment.
    test_support::eventually(DEADLINE, "no process left", || {
        kill_leftovers(dir.path()).is_ok_and(|found| found.is_empty())
    });
}

#[test]
fn services_left_over_are_found_by_their_mark() {
    let (dir, service) = running("");
    let found = kill_leftovers(dir.path()).expect("a look");
    assert!(found.contains(&service.id()), "{found:?}");
    assert_eq!(
        service.wait_exit(DEADLINE).expect("an end").signal(),
        Some(9)
    );
}

#[test]
fn a_child_that_holds_the_output_is_not_waited_for() {
    let (dir, service) = running("trap 'exit 0' TERM");
    service.terminate().expect("a signal");
    assert!(service.wait_exit(DEADLINE).expect("an end").success());
    assert_eq!(kill_leftovers(dir.path()).expect("a look").len(), 1);
}

#[test]
fn a_service_outlives_the_thread_that_started_it() {
    let (_dir, service) = std::thread::spawn(|| running("trap 'kill $!; exit 0' TERM"))
        .join()
        .expect("a start");
    service.terminate().expect("a signal");
    assert!(service.wait_exit(DEADLINE).expect("an end").success());
}
