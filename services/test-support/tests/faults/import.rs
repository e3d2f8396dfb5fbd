//! An import as large as the largest installation.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Duration;

use test_support::app::{App, Setup};
use test_support::eventually;

use crate::{alone, count, peak_memory};

const FEW: u64 = 10_000;
/// A line kept would be 100 bytes and more: the lines that CI's larger file has more would take twice as much.
const FLAT_KIB: u64 = 4 * 1024;
const IMPORT_DEADLINE: Duration = Duration::from_mins(10);

#[test]
fn the_memory_of_an_import_does_not_grow_with_the_file() {
    let _alone = alone();
    let many = count(1_000_000, 100_000);
    let (few_peak, peak) = (peak_of_import(FEW), peak_of_import(many));
    println!("import: {few_peak} KiB at most with {FEW} lines, {peak} KiB with {many}");
    assert!(few_peak > 0, "no look at the memory");
    assert!(
        peak < few_peak + FLAT_KIB,
        "{few_peak} KiB, then {peak} KiB"
    );
}

/// Imports so many users, and gives the most memory that the command had at a time, in KiB.
fn peak_of_import(lines: u64) -> u64 {
    let (setup, guards) = Setup::shared();
    let app = App::new(setup, Some(guards));
    let (migrated, output) = app.cli(&["migrate"]);
    assert!(migrated, "{output}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("users.csv");
    let mut csv = BufWriter::new(File::create(&path).expect("a file"));
    writeln!(csv, "username,daily_quota,api_key").expect("written");
    for number in 0..lines {
        writeln!(csv, "user-{number},5,the-key-of-user-{number}").expect("written");
    }
    drop(csv.into_inner().expect("written"));
    let process = app.cli_started(&["users", "import", &path.display().to_string()]);
    let mut peak = 0;
    // It only grows, so what a look misses of it is what grew since the look before.
    let status = eventually(IMPORT_DEADLINE, "the import to end", || {
        peak = peak_memory(&process).unwrap_or(peak);
        process.exit_status().ok().flatten()
    });
    assert!(status.success(), "{}", process.output());
    assert_eq!(app.sql("SELECT count(*) FROM users"), lines.to_string());
    peak
}
