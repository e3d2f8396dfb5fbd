//! Compares the digest that the relay keeps with the tables themselves.
//!
//! The relay folds what the triggers tell it. A change made behind the triggers is in the tables but not in the
//! digest, and so in no replica. An audit finds it, raises an alarm and corrects the digest; every replica then differs
//! from the next bookmark, takes a snapshot, and heals.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context;
use futures_util::TryStreamExt;
use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire_contract::{DIGEST_VERSION, UserSetDigest};

use crate::relay::numbering::{self, RelayState};
use crate::snapshot::read;
use crate::wire_image::WireImage;

/// Audits that replicas' mismatches ask for come no closer than this.
const SUSPICION_SPACING: Duration = Duration::from_secs(10);
/// After one that failed the next comes so soon, however far apart audits are: a database that was away for a moment must
/// not leave drift unseen for a day.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// An audit takes seconds for a million users.
const AUDIT_TIMEOUT: Duration = Duration::from_mins(5);
const NO_AUDIT: &str = "no audit in time: the database does not answer";

/// `identity_audits_total{outcome}`: `equal`, `drift`, `renewed` or `failed`.
static AUDITS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_audits_total",
        "Comparisons of the digest with the tables, by outcome",
        &["outcome"]
    )
    .expect("registered once")
});

/// `identity_audit_failing`: what the counter cannot tell where audits are far apart.
static FAILING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_audit_failing",
        "1 while the last audit that this process has tried failed"
    )
    .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub(crate) fn register_metrics() {
    LazyLock::force(&FAILING);
    for outcome in ["equal", "drift", "renewed", "failed"] {
        AUDITS.with_label_values(&[outcome]);
    }
}

/// What an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Digest and tables agree.
    Equal,
    /// They did not, or a user's row did not have its keys; it is corrected.
    Drift,
    /// The digest was of another version: it is computed anew.
    Renewed,
    /// Another audit was faster.
    Overtaken,
}

/// Audits every `interval`, until `shutdown`.
pub async fn run(
    pool: PgPool,
    interval: Duration,
    suspicion: Arc<Notify>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut pause = interval;
    loop {
        // When a replica differs, either it or the digest is wrong: the tables tell.
        let suspected = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => false,
            () = suspicion.notified() => true,
        };
        let audited = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            audited = audit_if_due(&pool, if suspected { SUSPICION_SPACING } else { interval }) => audited,
        };
        FAILING.set(i64::from(audited.is_err()));
        pause = interval;
        if let Err(error) = audited {
            pause = interval.min(RETRY_AFTER);
            AUDITS.with_label_values(&["failed"]).inc();
            tracing::warn!(error = format!("{error:#}"), "audit failed");
        }
    }
}

/// Several servers B audit: one of them is enough.
async fn audit_if_due(pool: &PgPool, spacing: Duration) -> anyhow::Result<()> {
    let due = sqlx::query_scalar(
        "SELECT audited_at IS NULL OR audited_at < now() - make_interval(secs => $1) FROM relay_state",
    )
    .bind(spacing.as_secs_f64() * 0.9)
    .fetch_one(pool);
    let due: bool = tokio::time::timeout(AUDIT_TIMEOUT, due)
        .await
        .context(NO_AUDIT)?
        .context("cannot tell when the last audit was")?;
    if due {
        audit(pool).await?;
    }
    Ok(())
}

/// One audit: what the tables amount to must be what the relay keeps.
pub async fn audit(pool: &PgPool) -> anyhow::Result<Finding> {
    tokio::time::timeout(AUDIT_TIMEOUT, mend_and_compare(pool))
        .await
        .context(NO_AUDIT)?
}

async fn mend_and_compare(pool: &PgPool) -> anyhow::Result<Finding> {
    // First, and told at once: what is mended is folded by its events, so a comparison made before would correct it once
    // more, and whichever audit compares next finds nothing wrong.
    let mended = mend_mirrors(pool).await?;
    if mended > 0 {
        AUDITS.with_label_values(&["drift"]).inc();
        tracing::error!(
            users = mended,
            "audit: a change was made behind the triggers; the keys of these users are told anew"
        );
    }
    let (kept, found) = compare(pool).await?;
    let finding = settle(pool, &kept, &found).await?;
    match finding {
        Finding::Equal if mended > 0 => return Ok(Finding::Drift),
        Finding::Equal => {
            AUDITS.with_label_values(&["equal"]).inc();
            tracing::info!(users = found.count, "audit: the digest equals the tables");
        }
        Finding::Drift => {
            if mended == 0 {
                AUDITS.with_label_values(&["drift"]).inc();
            }
            tracing::error!(
                users = found.count,
                kept = %kept.digest,
                found = %found.digest,
                "audit: a change was made behind the triggers; the digest is corrected, and every replica will heal"
            );
        }
        Finding::Renewed => {
            AUDITS.with_label_values(&["renewed"]).inc();
            tracing::info!("audit: the digest was of another release, and is computed anew");
        }
        Finding::Overtaken => tracing::info!("audit: another one was faster"),
    }
    Ok(finding)
}

/// What the relay keeps, and what the tables amount to less the changes that the read has seen but the relay has not
/// numbered yet.
async fn compare(pool: &PgPool) -> anyhow::Result<(RelayState, Totals)> {
    let mut seen = None;
    let users = read::all_users_with(
        pool,
        async |transaction| {
            seen = Some((
                numbering::state(&mut *transaction).await?,
                unnumbered(transaction).await?,
            ));
            Ok(())
        },
        |_, _| Ok(()),
    )
    .await?;
    let (kept, unnumbered) = seen.context("the read saw no state of the relay")?;
    let mut found = Totals {
        count: i64::try_from(users.count).context("too many users")? - unnumbered.count,
        digest: users.digest,
    };
    found.digest -= unnumbered.digest;
    Ok((kept, found))
}

fn agree(kept: &RelayState, found: &Totals) -> bool {
    found.digest == kept.digest && found.count == kept.user_count
}

/// A key changed behind the triggers leaves the user's `wire_keys` as they were, and each later change of the user would
/// tell replicas of the old keys again. Mending them is an ordinary change, with its event; gives how many there were.
async fn mend_mirrors(pool: &PgPool) -> anyhow::Result<u64> {
    let mended = sqlx::query(
        "UPDATE users SET wire_keys = wire_keys_of(user_id) WHERE wire_keys <> wire_keys_of(user_id)",
    )
    .execute(pool)
    .await
    .context("cannot mend the keys that users' rows mirror")?;
    Ok(mended.rows_affected())
}

/// What users, or changes to them, amount to.
#[derive(Debug, Default)]
struct Totals {
    count: i64,
    digest: UserSetDigest,
}

#[derive(sqlx::FromRow)]
struct PendingRow {
    old_image: Option<Json<WireImage>>,
    new_image: Option<Json<WireImage>>,
}

/// The changes that the relay has yet to fold.
async fn unnumbered(transaction: &mut PgConnection) -> anyhow::Result<Totals> {
    // One at a time: after a long outage of the broker there are as many as users that changed.
    let mut rows = sqlx::query_as::<_, PendingRow>(
        "SELECT old_image, new_image FROM outbox WHERE sequence IS NULL",
    )
    .fetch(transaction);
    let mut totals = Totals::default();
    while let Some(row) = rows
        .try_next()
        .await
        .context("cannot read unnumbered changes")?
    {
        if let Some(Json(new)) = row.new_image {
            totals.digest += new.digest();
            totals.count += 1;
        }
        if let Some(Json(old)) = row.old_image {
            totals.digest -= old.digest();
            totals.count -= 1;
        }
    }
    drop(rows);
    Ok(totals)
}

/// Notes the audit, and corrects by the difference: what was numbered meanwhile stays folded. `audits` makes sure that
/// of two audits that saw the same difference only one corrects it.
async fn settle(pool: &PgPool, before: &RelayState, found: &Totals) -> anyhow::Result<Finding> {
    let mut transaction = pool
        .begin()
        .await
        .context("cannot begin to settle an audit")?;
    let now = numbering::locked_state(&mut transaction).await?;
    if now.audits != before.audits {
        return Ok(Finding::Overtaken);
    }
    let mut digest = now.digest;
    digest += found.digest;
    digest -= before.digest;
    sqlx::query(
        "UPDATE relay_state SET audits = audits + 1, audited_at = now(), user_count = $1, digest = $2,
                digest_version = $3",
    )
    .bind(now.user_count + found.count - before.user_count)
    .bind(digest.to_bytes().as_slice())
    .bind(DIGEST_VERSION.cast_signed())
    .execute(&mut *transaction)
    .await
    .context("cannot settle an audit")?;
    transaction
        .commit()
        .await
        .context("cannot settle an audit")?;
    Ok(if before.digest_version != DIGEST_VERSION {
        Finding::Renewed
    } else if agree(before, found) {
        Finding::Equal
    } else {
        Finding::Drift
    })
}
