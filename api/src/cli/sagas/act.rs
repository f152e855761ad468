//! `oms sagas retry`, `resume`, `abandon` and `resolve`

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Context;
use clap::Args;
use domain::id::OrderId;
use domain::input::Violation;
use indicatif::{ProgressBar, ProgressStyle};
use saga::engine::Wakeups;
pub(super) use saga::engine::operate::Act;
use saga::engine::operate::{self, ActError, Listed, MAX_LISTED, Operator};
use saga::place_order::operate::act_on_order;
use uuid::Uuid;

use super::{FilterArgs, Session, SiteArgs, list, parse_order_id, print_table, table};
use crate::cli::print_line;
use crate::operator;

/// The most reasons for failures that are listed.
const MAX_REASONS: usize = 50;

#[derive(Debug, Args)]
pub(in crate::cli) struct ActArgs {
    /// The orders; or give a filter
    #[arg(value_name = "ORDER_ID", value_parser = parse_order_id, required_unless_present = FilterArgs::GROUP,
          conflicts_with = FilterArgs::GROUP)]
    order_ids: Vec<OrderId>,
    /// Why, for the order's events and the saga's history; whoever watches the order sees it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Go on without asking, which a filter does on a terminal
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ResolveArgs {
    /// The order
    #[arg(value_parser = parse_order_id)]
    order_id: OrderId,
    /// The call took effect; this is the id that the other system gave to what it did
    #[arg(long, value_name = "ANSWER_ID", required_unless_present = "refused", conflicts_with = "refused")]
    succeeded: Option<String>,
    /// The call took no effect and never will; this is the code of the refusal
    #[arg(long, value_name = "CODE")]
    refused: Option<String>,
    /// How you know, for the order's events and the saga's history; whoever watches the order sees it
    #[arg(long, value_name = "TEXT")]
    evidence: String,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Who acts [default: the user of this process]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    site: SiteArgs,
}

impl ActArgs {
    pub(super) fn site(&self) -> &SiteArgs {
        &self.common.site
    }

    pub(super) async fn run(&self, session: &Session, act: &Act) -> anyhow::Result<()> {
        let operator = self.common.operator("reason", &self.reason)?;
        let ids = if self.order_ids.is_empty() {
            let sagas = self.find(session, act).await?;
            if sagas.is_empty() || self.common.dry_run || !self.confirm(act, sagas.len())? {
                return Ok(());
            }
            sagas.iter().map(|saga| saga.id).collect()
        } else {
            let ids: Vec<Uuid> = self.order_ids.iter().map(|id| id.uuid()).collect();
            if self.common.dry_run {
                return try_out(session, act, &ids).await;
            }
            ids
        };
        act_on_all(session, act, &ids, &operator).await
    }

    /// Finds what the filter means, and says how many those are and how many the act fits.
    async fn find(&self, session: &Session, act: &Act) -> anyhow::Result<Vec<Listed>> {
        let filter = self.filter.to_filter();
        let mut sagas: Vec<Listed> = Vec::new();
        loop {
            let after = sagas.last().map(|saga| saga.id);
            let page = operate::list(&session.db, &session.definitions, &filter, after, MAX_LISTED).await?;
            let is_last = (page.len() as u64) < MAX_LISTED;
            sagas.extend(page);
            if is_last {
                break;
            }
        }
        let fits = |saga: &&Listed| operate::check(saga, &session.definitions, act.kind()).is_ok();
        let fitting = sagas.iter().filter(fits).count();
        let done = act.kind().done();
        match sagas.len() {
            0 => print_line("no saga matches")?,
            1 if fitting == 1 => print_line(format_args!("1 saga matches; it can be {done} now"))?,
            1 => print_line(format_args!("1 saga matches; it cannot be {done} now"))?,
            all => print_line(format_args!("{all} sagas match; {fitting} of them can be {done} now"))?,
        }
        if self.common.dry_run && !sagas.is_empty() {
            list::print_sagas(&sagas[..sagas.len().min(MAX_REASONS)])?;
            if sagas.len() > MAX_REASONS {
                print_line(format_args!("and {} more", sagas.len() - MAX_REASONS))?;
            }
        }
        Ok(sagas)
    }

    /// Asks whether to go on.
    fn confirm(&self, act: &Act, sagas: usize) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        anyhow::ensure!(
            io::stdin().is_terminal(),
            "standard input is no terminal to ask on; add --yes to go on, or --dry-run to see what would be done"
        );
        let (act, sagas) = (act.kind().as_str(), count(sagas));
        write!(io::stderr(), "Go on and {act} {sagas}? [y/N] ").context("cannot ask")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

impl ResolveArgs {
    pub(super) fn site(&self) -> &SiteArgs {
        &self.common.site
    }

    pub(super) async fn run(&self, session: &Session) -> anyhow::Result<()> {
        let operator = self.common.operator("evidence", &self.evidence)?;
        let finding = operator::finding(self.succeeded.as_deref(), self.refused.as_deref());
        let act = Act::Resolve(finding.map_err(|violation| wrong(&[violation]))?);
        let ids = [self.order_id.uuid()];
        match self.common.dry_run {
            true => try_out(session, &act, &ids).await,
            false => act_on_all(session, &act, &ids, &operator).await,
        }
    }
}

impl CommonArgs {
    fn operator(&self, reason_field: &str, reason: &str) -> anyhow::Result<Operator> {
        let by = self.by.clone().unwrap_or_else(user);
        operator::check(&by, "command line", reason_field, reason).map_err(|violations| wrong(&violations))
    }
}

fn wrong(violations: &[Violation]) -> anyhow::Error {
    let texts =
        violations.iter().map(|violation| format!("--{} {}", violation.path.join("."), violation.message));
    anyhow::anyhow!(texts.collect::<Vec<_>>().join("; "))
}

/// Returns the name of the user whose process this is.
fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().filter_map(|variable| std::env::var(variable).ok());
    let mut named = named.filter(|name| !name.trim().is_empty());
    named.next().unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// Says of each saga whether the act could be carried out.
async fn try_out(session: &Session, act: &Act, ids: &[Uuid]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for &id in ids {
        let saga = operate::find(&session.db, &session.definitions, id).await?;
        let checked = saga.ok_or(ActError::Missing);
        let checked = checked.and_then(|saga| operate::check(&saga, &session.definitions, act.kind()));
        failed.extend(checked.err().map(|error| (id, error)));
    }
    summarize("would be ", act, ids.len(), &failed)
}

/// Acts on each saga in a transaction of its own, and says what became of it.
async fn act_on_all(session: &Session, act: &Act, ids: &[Uuid], operator: &Operator) -> anyhow::Result<()> {
    let bar = progress_bar(ids.len());
    let wakeups = Wakeups::new();
    let mut failed = Vec::new();
    for &id in ids {
        match act_on_order(&session.db, &session.definitions, id, act.clone(), operator).await {
            Ok(()) => wakeups.subjects_changed(vec![id]),
            Err(error) => failed.push((id, error)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if failed.len() < ids.len() {
        wakeups.sagas_ready();
        wakeups.send(session.db.get_postgres_connection_pool()).await;
    }
    summarize("", act, ids.len(), &failed)
}

fn summarize(would_be: &str, act: &Act, total: usize, failed: &[(Uuid, ActError)]) -> anyhow::Result<()> {
    let done = act.kind().done();
    print_line(format_args!("{would_be}{done} {} of {}", total - failed.len(), count(total)))?;
    if failed.is_empty() {
        return Ok(());
    }
    let mut table = table(["ORDER", "LEFT AS IT IS BECAUSE"]);
    for (id, error) in failed.iter().take(MAX_REASONS) {
        table.add_row([OrderId::from_uuid(*id).to_string(), reason(error)]);
    }
    print_table(&table)?;
    anyhow::bail!("{} could not be {done}", count(failed.len()))
}

/// Joins an error and its causes.
fn reason(error: &ActError) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    reason
}

fn count(sagas: usize) -> String {
    if sagas == 1 { "1 saga".to_owned() } else { format!("{sagas} sagas") }
}

/// A bar on standard error; it draws nothing where that is no terminal.
fn progress_bar(sagas: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} sagas, {per_sec}, {eta} left")
        .expect("the template is well formed");
    ProgressBar::new(sagas as u64).with_style(style)
}
