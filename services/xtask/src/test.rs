//! `cargo xtask test`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Result;
use test_support::servers::packages;
use test_support::{
    BIN_DIR_VAR, COLLECTOR_VAR, DATABASE_VAR, MANAGEMENT_VAR, RABBITMQ_VAR, SCHEMATHESIS_VAR,
};

use crate::cargo;
use crate::chart::Checks;
use crate::interrupt::Interrupt;
use crate::observe::{self, collector};
use crate::schemathesis;
use crate::servers::Servers;
use crate::workspace::{self, State};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Skip formatting and lints
    #[arg(long)]
    no_lint: bool,

    /// Run one kind of tests alone, with its full counts
    #[arg(long, value_enum)]
    tier: Option<Tier>,

    /// Passed to `cargo test`: a filter of test names, `-p CRATE`, or after another `--` what the test runner takes
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CARGO TEST ARGS"
    )]
    arguments: Vec<String>,
}

/// Lines of the broker's log that are shown when a test has failed.
const BROKER_ERRORS: usize = 60;

/// Speaks TLS for the tests' SMS gateway.
const TLS_FRONT: (&str, &str) = ("socat", "socat");

/// Tests that take smaller counts when everything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Faults done to real servers and processes, and random histories of the cache protocol
    Faults,
}

/// Runs the checks and tests; the last line on stdout sums all test binaries.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let state = State::take("test")?;
    packages::ensure()?;
    packages::ensure_programs(&observe::PACKAGES)?;
    packages::ensure_programs(&[TLS_FRONT])?;
    if !args.no_lint && args.tier.is_none() {
        lint(&state, &interrupt)?;
    }
    cargo::build(state.dir(), "fast", &interrupt)?;
    let (rabbitmq, postgres) = Servers::start_for_tests(&state)?;
    interrupt.check()?;

    let chosen = match args.tier {
        Some(Tier::Faults) => [
            FAULTS.as_slice(),
            &args
                .arguments
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        ]
        .concat(),
        None => test_arguments(&args.arguments),
    };
    let all = args.arguments.is_empty() && args.tier.is_none();
    let programs = Programs::find(args, all, &state, &interrupt)?;
    let prepared = |arguments: &[&str]| -> Result<Command> {
        let mut command = cargo::command(state.dir(), arguments)?;
        command.env(BIN_DIR_VAR, workspace::bin_dir()?);
        // Up to the virtual host: each test has its own.
        command.env(RABBITMQ_VAR, rabbitmq.amqp_url("").trim_end_matches('/'));
        command.env(MANAGEMENT_VAR, rabbitmq.management_url());
        command.env(DATABASE_VAR, postgres.url("postgres"));
        programs.name_in(&mut command);
        Ok(command)
    };
    let mut command = prepared(&chosen)?;
    if args.tier == Some(Tier::Faults) {
        command
            .env("TEST_TIER", "faults")
            .env("MODEL_CASES", "full")
            // The figures are what the tier is for.
            .env("RUST_TEST_NOCAPTURE", "1")
            .env("RUST_TEST_THREADS", "1");
    }
    let mut sum = Summary::default();
    let status = cargo::run_looking(command, &interrupt, |line| sum.add(line))?;
    let with_programs = !all || programs.run_tests(prepared, &interrupt, &mut sum)?;
    if !status.success() || !with_programs {
        let errors = rabbitmq.last_errors(BROKER_ERRORS);
        println!(
            "What the shared broker has logged last as errors, in case it is the reason:\n{errors}"
        );
    }
    drop((rabbitmq, postgres));
    let rules = if all {
        let command = cargo::command(state.dir(), &MERGE_RULES)?;
        cargo::run_looking(command, &interrupt, |line| sum.add(line))?.success()
    } else {
        true
    };
    let mut chart = true;
    if all {
        let checks = Checks::new(&state, &interrupt)?.run()?;
        chart = checks.failed == 0;
        sum.passed += checks.passed;
        sum.failed += checks.failed;
        sum.ignored += checks.skipped;
    }
    if !status.success() && sum.failed == 0 {
        println!("A test program did not build, or crashed before its summary.");
    }
    println!(
        "{} passed, {} failed, {} ignored",
        sum.passed, sum.failed, sum.ignored
    );
    Ok(if status.success() && with_programs && rules && chart {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Programs that some tests need, where they can be had: those tests are ignored otherwise.
struct Programs {
    collector: Option<PathBuf>,
    schemathesis: Option<PathBuf>,
}

impl Programs {
    fn find(args: &Args, all: bool, state: &State, interrupt: &Interrupt) -> Result<Self> {
        let wanted = |name: &str| all || args.arguments.iter().any(|it| it == name);
        Ok(Self {
            collector: if wanted("collector") {
                collector::binary(state.dir(), interrupt)?
            } else {
                None
            },
            schemathesis: if wanted("schemathesis") {
                schemathesis::binary(interrupt)?
            } else {
                None
            },
        })
    }

    fn name_in(&self, command: &mut Command) {
        let programs = [
            (COLLECTOR_VAR, &self.collector),
            (SCHEMATHESIS_VAR, &self.schemathesis),
        ];
        for (variable, program) in programs {
            command.envs(program.iter().map(|program| (variable, program)));
        }
    }

    /// Runs what was ignored until now; gives whether all of it succeeded.
    fn run_tests(
        &self,
        prepared: impl Fn(&[&str]) -> Result<Command>,
        interrupt: &Interrupt,
        sum: &mut Summary,
    ) -> Result<bool> {
        let mut succeeded = true;
        for (program, tests, without) in [
            (
                &self.collector,
                "collector",
                "Without Go there is no OpenTelemetry Collector",
            ),
            (
                &self.schemathesis,
                "schemathesis",
                "Without Python and PyPI there is no Schemathesis",
            ),
        ] {
            if program.is_none() {
                println!("{without}: the tests that need it are ignored.");
                continue;
            }
            let mut more = Summary::default();
            let command = prepared(&ignored_tests(tests))?;
            let status = cargo::run_looking(command, interrupt, |line| more.add(line))?;
            sum.ran_after_all(&more);
            succeeded &= status.success();
        }
        Ok(succeeded)
    }
}

/// The fault tests, clients that disconnect by the thousand, and the property tests of the merge, their figures shown.
const FAULTS: [&str; 11] = [
    "test",
    "--profile",
    "fast",
    "--no-fail-fast",
    "--workspace",
    "--test",
    "faults",
    "--test",
    "admin",
    "--test",
    "histories",
];

/// The model without one rule of the merge at a time: with a feature that no other program may be built with.
const MERGE_RULES: [&str; 8] = [
    "test",
    "--profile",
    "fast",
    "--workspace",
    "--features",
    "model-checker/rules",
    "--test",
    "merge_rules",
];

/// By which Cargo is told what to test of a package.
const ONE_TARGET: [&str; 5] = ["--lib", "--bin", "--bins", "--test", "--tests"];

/// The tests of one program that are ignored without what they need.
fn ignored_tests(program: &str) -> [&str; 8] {
    [
        "test",
        "--profile",
        "fast",
        "--workspace",
        "--test",
        program,
        "--",
        "--ignored",
    ]
}

fn lint(state: &State, interrupt: &Interrupt) -> Result<()> {
    println!("Checking formatting and lints …");
    let format = ["fmt", "--all", "--check"];
    cargo::run(cargo::command(state.dir(), &format)?, interrupt)?;
    let clippy = [
        "clippy",
        // That of the build: its build scripts and macros are built once.
        "--profile",
        "fast",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    cargo::run(cargo::command(state.dir(), &clippy)?, interrupt)
}

fn test_arguments(more: &[String]) -> Vec<&str> {
    let mut arguments = vec!["test", "--profile", "fast", "--no-fail-fast"];
    let for_cargo = more.iter().take_while(|argument| *argument != "--");
    // It would win over targets that are named.
    if !for_cargo
        .clone()
        .any(|argument| ONE_TARGET.contains(&argument.as_str()))
    {
        arguments.push("--all-targets");
    }
    // Cargo lets --workspace win over -p.
    if !for_cargo
        .clone()
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
    {
        arguments.push("--workspace");
    }
    arguments.extend(more.iter().map(String::as_str));
    arguments
}

/// The sums of all test binaries' own summaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    /// What was ignored at first.
    fn ran_after_all(&mut self, ignored: &Self) {
        self.passed += ignored.passed;
        self.failed += ignored.failed;
        self.ignored = self.ignored.saturating_sub(ignored.passed + ignored.failed);
    }

    /// Counts a line like `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|it| it.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let (number, kind) = count.split_once(' ').unwrap_or_default();
            let number: u64 = number.parse().unwrap_or_default();
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summaries_of_all_test_binaries_are_summed() {
        let mut sum = Summary::default();
        sum.add("running 5 tests");
        sum.add("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.41s");
        sum.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s");
        assert_eq!(
            sum,
            Summary {
                passed: 7,
                failed: 3,
                ignored: 1
            }
        );
    }

    #[test]
    fn a_chosen_package_is_not_overridden_by_the_workspace() {
        let arguments = |more: &[&str]| {
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            test_arguments(&more).contains(&"--workspace")
        };
        assert!(arguments(&[]));
        assert!(arguments(&["a_filter", "--", "-p"]));
        assert!(!arguments(&["-p", "server-a"]));
    }

    #[test]
    fn a_chosen_target_is_not_overridden_by_all() {
        let arguments = |more: &[&str]| {
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            test_arguments(&more).contains(&"--all-targets")
        };
        assert!(arguments(&["-p", "server-a", "--", "--test"]));
        assert!(!arguments(&["-p", "server-a", "--test", "sms"]));
    }
}
