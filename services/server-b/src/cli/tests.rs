use clap::{CommandFactory, Parser};

use super::rows::{Faults, Rows};
use super::{Cli, Command};
use crate::keys::NewKey;
use crate::users::ImportRow;

fn read(csv: &[u8]) -> anyhow::Result<Vec<ImportRow>> {
    let (mut rows, mut read, mut faults) = (Rows::new(csv)?, Vec::new(), Faults::default());
    while let Some(row) = rows.next_row()? {
        match row {
            Ok(row) => read.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    faults.refuse()?;
    Ok(read)
}

fn rows(csv: &str) -> Vec<ImportRow> {
    read(csv.as_bytes()).expect("an acceptable file")
}

fn error(csv: &str) -> String {
    read(csv.as_bytes()).expect_err("a faulty file").to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn publish_all_users_is_the_full_sync() {
    let database = "--database-url=postgres://db/users";
    let cli = Cli::try_parse_from(["server-b", "publish_all_users", database]).expect("known");
    assert!(matches!(cli.command, Command::FullSync(_)));
}

#[test]
fn migrate_can_be_switched_off_and_secrets_are_not_shown() {
    let serve = |more: &[&str]| {
        let base = [
            "server-b",
            "serve",
            "--database-url=postgres://u:canary@db/users",
        ];
        let cli = Cli::try_parse_from(base.iter().chain(more)).expect("known");
        let text = format!("{cli:?}");
        assert!(!text.contains("canary"), "{text}");
        match cli.command {
            Command::Serve(args) => args.migration.migrate,
            other => panic!("{other:?}"),
        }
    };
    assert!(serve(&["--admin-token=canary-canary-canary"]));
    assert!(serve(&["--migrate", "--key-sealing-key=canary"]));
    assert!(!serve(&["--migrate=false"]));
    assert!(!serve(&["--migrate=0"]));
}

#[test]
fn an_update_without_a_change_is_not_understood() {
    let database = "--database-url=postgres://db/users";
    assert!(Cli::try_parse_from(["server-b", "users", "update", "1", database]).is_err());
    let change = [
        "server-b", "users", "update", "1", "--active", "false", database,
    ];
    assert!(Cli::try_parse_from(change).is_ok());
}

#[test]
fn columns_may_be_absent_empty_and_in_any_order() {
    let read =
        rows("\u{feff}api_key,username,daily_quota\r\nthe-key-1,alice,5\r\n,\"bob, jr\",\r\n");
    assert_eq!(read.len(), 2);
    let (alice, bob) = (&read[0], &read[1]);
    assert_eq!(
        (alice.line, alice.username.as_str(), alice.daily_quota),
        (2, "alice", Some(5))
    );
    assert_eq!(
        alice.api_key.as_ref().map(NewKey::expose),
        Some("the-key-1")
    );
    assert_eq!(
        (bob.username.as_str(), bob.daily_quota, bob.is_active),
        ("bob, jr", None, None)
    );
    assert!(bob.api_key.is_none());
}

#[test]
fn blank_lines_and_both_kinds_of_line_ends_are_counted() {
    let read = rows("username\r\n\r\na\r\nb\n");
    assert_eq!(read.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 4]);
    let read = rows("username,api_key\na,\n\n\nb,\n");
    assert_eq!(read.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 5]);
}

#[test]
fn an_empty_list_is_a_list() {
    assert!(rows("username\n").is_empty());
}

#[test]
fn booleans_are_words_or_digits() {
    let read = rows("username,is_active\na,TRUE\nb,0\n");
    assert_eq!(read[0].is_active, Some(true));
    assert_eq!(read[1].is_active, Some(false));
}

#[test]
fn every_bad_line_is_named_with_its_column_and_no_value() {
    let error = error(
        "username,is_active,daily_quota,api_key\n\
         ,true,1,\n\
         a,canary,1,\n\
         b,true,-1,\n\
         c,true,canary,\n\
         d,true,99999999999,\n\
         e,true,1,canary with space\n\
         f,true\n\
         ok,true,1,12345678\n",
    );
    for named in [
        "line 2, column username",
        "line 3, column is_active",
        "line 4, column daily_quota",
        "line 5, column daily_quota",
        "line 6, column daily_quota",
        "line 7, column api_key",
        "line 8",
    ] {
        assert!(error.contains(named), "{named} is not in\n{error}");
    }
    assert!(
        !error.contains("canary") && !error.contains("12345678"),
        "{error}"
    );
}

#[test]
fn faults_beyond_the_first_twenty_are_counted() {
    let csv = format!("username,daily_quota\n{}", "a,-1\n".repeat(25));
    assert!(error(&csv).contains("and 5 more"));
}

#[test]
fn a_header_that_is_none_is_refused_without_being_quoted() {
    assert!(error("alice,canary-key\n").contains("column 1 of the header"));
    assert!(!error("username,canary-key\n").contains("canary"));
    assert!(error("daily_quota\n1\n").contains("username"));
    assert!(error("username,username\na,b\n").contains("twice"));
    assert!(error("").contains("username"));
}

#[test]
fn text_that_is_not_utf_8_is_a_fault_of_its_line() {
    let error = read(b"username\nalice\n\xff\xfe\n")
        .expect_err("not UTF-8")
        .to_string();
    assert!(error.contains("line 3"), "{error}");
}
