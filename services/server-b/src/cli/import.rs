//! `server-b users import`: a CSV file becomes users, in transactions of 1,000.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use service_runtime::config::DatabaseArgs;
use wire_contract::{KeyDigest, UserId};

use super::connect_migrated;
use super::output::open;
use super::progress::Progress;
use super::rows::{self, Fault, Row, refuse};
use super::users::users;
use crate::keys::{KeyArgs, KeyRing, NewKey};
use crate::users::{ImportedChange, KeyOwners, NewUser, UserIds, Users};

pub const EXAMPLES: &str =
    "The file begins with a header: username, and any of is_active, daily_quota and api_key.
A key that is missing or empty is generated for a new user, and stays for one that exists.
The whole file is checked before anything is written.

Examples:
  server-b users import users.csv --generated-keys-out keys.csv
  server-b users import users.csv --on-conflict update
  zcat users.csv.gz | server-b users import - --generated-keys-out keys.csv";

/// Users in one transaction.
const BATCH: usize = 1000;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// CSV file, `-` for stdin
    file: PathBuf,
    /// What to do with a username that exists
    #[arg(long, default_value = "fail", value_name = "ACTION")]
    on_conflict: OnConflict,
    /// File to make (it must not exist) for the generated keys, as CSV `username,api_key`, readable
    /// by its owner only; needed when a key has to be generated
    #[arg(long, value_name = "FILE")]
    generated_keys_out: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// What to do with a username that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnConflict {
    /// Import nothing and name the lines
    Fail,
    /// Leave the user as it is
    Skip,
    /// Set what the file says; a given key replaces all the user's keys
    Update,
}

/// What becomes of the rows.
#[derive(Default)]
struct Plan {
    create: Vec<Row>,
    update: Vec<(UserId, Row)>,
    skipped: usize,
}

pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let rows = rows::read(open(&args.file)?)?;
    let users = users(&connect_migrated(&args.database).await?);
    let plan = plan(&users, rows, args.on_conflict).await?;
    let (created, updated, skipped) = (plan.create.len(), plan.update.len(), plan.skipped);
    write(&users, &keys, plan, args.generated_keys_out.as_deref()).await?;
    println!("{created} users created, {updated} updated, {skipped} skipped");
    Ok(())
}

/// Decides for each row, and finds what the database would refuse.
async fn plan(users: &Users, rows: Vec<Row>, on_conflict: OnConflict) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    let mut faults = Vec::new();
    let mut rest = rows.into_iter();
    loop {
        let batch: Vec<Row> = rest.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let (ids, owners) = known(users, &batch).await?;
        for row in batch {
            let existing = ids.get(&row.username).copied();
            match (existing, on_conflict) {
                (Some(_), OnConflict::Skip) => {
                    plan.skipped += 1;
                    continue;
                }
                (Some(user_id), OnConflict::Fail) => {
                    faults.push(exists(&row, user_id));
                    continue;
                }
                (Some(_), OnConflict::Update) | (None, _) => {}
            }
            faults.extend(key_of_another(&row, existing, &owners));
            match existing {
                Some(user_id) => plan.update.push((user_id, row)),
                None => plan.create.push(row),
            }
        }
    }
    refuse(&faults)?;
    Ok(plan)
}

async fn known(users: &Users, batch: &[Row]) -> anyhow::Result<(UserIds, KeyOwners)> {
    let names: Vec<String> = batch.iter().map(|row| row.username.clone()).collect();
    let digests: Vec<KeyDigest> = batch
        .iter()
        .filter_map(|row| Some(row.api_key.as_ref()?.digest()))
        .collect();
    Ok((
        users.ids_of(&names).await?,
        users.owners_of(&digests).await?,
    ))
}

fn exists(row: &Row, user_id: UserId) -> Fault {
    Fault {
        line: row.line,
        column: "username",
        message: format!("exists already as user {user_id} (see --on-conflict)"),
    }
}

fn key_of_another(row: &Row, existing: Option<UserId>, owners: &KeyOwners) -> Option<Fault> {
    let owner = owners.get(&row.api_key.as_ref()?.digest())?;
    (existing != Some(*owner)).then(|| Fault {
        line: row.line,
        column: "api_key",
        message: format!("is in use by user {owner}"),
    })
}

async fn write(
    users: &Users,
    keys: &KeyRing,
    plan: Plan,
    keys_out: Option<&Path>,
) -> anyhow::Result<()> {
    let total = (plan.create.len() + plan.update.len()) as u64;
    let mut keys_file = open_keys_file(&plan.create, keys_out)?;
    let mut progress = Progress::new("import", "users");
    let mut done = 0;
    let mut create = plan.create.into_iter();
    let mut update = plan.update.into_iter();
    loop {
        let new: Vec<Row> = create.by_ref().take(BATCH).collect();
        let changed: Vec<(UserId, Row)> = update.by_ref().take(BATCH - new.len()).collect();
        if new.is_empty() && changed.is_empty() {
            return Ok(());
        }
        done += (new.len() + changed.len()) as u64;
        if !new.is_empty() {
            create_batch(users, keys, new, keys_file.as_mut()).await?;
        }
        if !changed.is_empty() {
            update_batch(users, keys, changed).await?;
        }
        progress.set(done, Some(total));
    }
}

async fn create_batch(
    users: &Users,
    keys: &KeyRing,
    rows: Vec<Row>,
    keys_file: Option<&mut File>,
) -> anyhow::Result<()> {
    let lines = lines(rows.iter());
    let mut generated = csv::Writer::from_writer(Vec::new());
    let mut batch = Vec::with_capacity(rows.len());
    for row in rows {
        let api_key = if let Some(key) = row.api_key {
            key
        } else {
            let key = NewKey::generate();
            generated.write_record([row.username.as_str(), key.expose()])?;
            key
        };
        batch.push(NewUser {
            username: row.username,
            is_active: row.is_active.unwrap_or(NewUser::IS_ACTIVE),
            daily_quota: row.daily_quota.unwrap_or(NewUser::DAILY_QUOTA),
            api_key,
            key_expires_at: None,
        });
    }
    // On disk before the commit: a key that is lost cannot be shown again.
    if let Some(file) = keys_file {
        let text = generated
            .into_inner()
            .context("cannot write the generated keys")?;
        file.write_all(&text)
            .and_then(|()| file.sync_data())
            .context("cannot write the generated keys; users before are imported")?;
    }
    users.create_many(keys, batch).await.with_context(|| {
        format!(
            "{lines} were not imported, those before were; keys generated for them are void. \
             Correct it and run again with --on-conflict skip"
        )
    })
}

async fn update_batch(
    users: &Users,
    keys: &KeyRing,
    rows: Vec<(UserId, Row)>,
) -> anyhow::Result<()> {
    let lines = lines(rows.iter().map(|(_, row)| row));
    let changes = rows.into_iter().map(|(user_id, row)| ImportedChange {
        user_id,
        is_active: row.is_active,
        daily_quota: row.daily_quota,
        api_key: row.api_key,
    });
    users
        .update_many(keys, changes.collect())
        .await
        .with_context(|| {
            format!("{lines} were not imported, those before were; correct it and run again")
        })
}

/// `lines 2 to 1001`.
fn lines<'a>(mut rows: impl DoubleEndedIterator<Item = &'a Row>) -> String {
    let first = rows.next().map_or(0, |row| row.line);
    let last = rows.next_back().map_or(first, |row| row.line);
    format!("lines {first} to {last}")
}

/// The file for generated keys, if any has to be generated.
fn open_keys_file(create: &[Row], path: Option<&Path>) -> anyhow::Result<Option<File>> {
    let Some(first) = create.iter().find(|row| row.api_key.is_none()) else {
        return Ok(None);
    };
    let Some(path) = path else {
        bail!(
            "nothing was imported: line {} has no api_key, so one has to be generated, and it is known \
             only once: name a file for it with --generated-keys-out",
            first.line
        );
    };
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| {
            format!(
                "nothing was imported: cannot make --generated-keys-out {}",
                path.display()
            )
        })?;
    file.write_all(b"username,api_key\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(file))
}
