//! `regatta token`: who may speak to the coordinator. Works on its database, also while it runs.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use regatta_core::id::AgentId;
use regatta_core::token::Role;
use regatta_store::{NewToken, TokenRecord, Tokens};
use serde_json::{Value, json};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::{self, Folders};
use crate::source::DatabaseArgs;

/// The longest a token may be good for, in days.
const MAX_DAYS: i64 = 3650;

/// What is to be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once
    Create(CreateArgs),
    /// List tokens; the tokens themselves are not stored
    List(ListArgs),
    /// Revoke a token; what uses it is cut off within a second or two
    Revoke(RevokeArgs),
}

/// Opens the coordinator's database.
async fn open(database: &DatabaseArgs, folders: &Folders) -> anyhow::Result<Tokens> {
    let path = folders.database(database.db.as_deref())?;
    paths::make_parent(&path)?;
    Ok(Tokens::open(&path, Timestamp::now).await.map_err(|error| BadInput(error.to_string()))?)
}

/// Arguments of `regatta token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What it allows: agent (measure), submitter (submit and stop runs), viewer (look)
    #[arg(long)]
    role: Role,
    /// The agent it is for; for other roles a name to know it by
    #[arg(long)]
    name: AgentId,
    /// How long it is good for, such as 12h or 30d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = period)]
    expires: Option<SignedDuration>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `regatta token list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `regatta token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The token's id, or a name: then all tokens of that name
    token: String,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON: the ids of the tokens that were revoked by this
    #[arg(long)]
    json: bool,
}

/// Makes, lists, revokes.
pub(crate) async fn run(command: TokenCommand, folders: &Folders) -> anyhow::Result<Exit> {
    match command {
        TokenCommand::Create(args) => create(args, folders).await,
        TokenCommand::List(args) => list(args, folders).await,
        TokenCommand::Revoke(args) => revoke(args, folders).await,
    }
}

/// A time such as `12h` or `30d`.
fn period(text: &str) -> Result<SignedDuration, String> {
    let rule = || format!("a time is a number with s, m, h or d behind it, such as 30d, and at most {MAX_DAYS}d");
    let unit = text.chars().last().ok_or_else(rule)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(rule()),
    };
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| rule())?;
    let total = number.checked_mul(seconds).filter(|total| (1..=MAX_DAYS * 86_400).contains(total));
    total.map(SignedDuration::from_secs).ok_or_else(rule)
}

async fn create(args: CreateArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let now = Timestamp::now();
    let expires_at = args.expires.map(|period| now + period);
    let new = NewToken { role: args.role, name: args.name.to_string(), expires_at };
    let mut tokens = open(&args.database, folders).await?;
    let token = tokens.create(&new, now).await?;
    tokens.close().await?;
    if args.json {
        let made = json!({
            "token": token.expose(),
            "id": token.id().as_str(),
            "role": new.role.as_str(),
            "name": new.name,
            "expires_at": expires_at.map(|at| at.to_string()),
        });
        output::line(&made.to_string());
    } else {
        output::line(token.expose());
        let until = expires_at.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {at}"));
        output::note(&format!(
            "token {} for {} '{}', good {until}. It is shown only now: keep it in a file of mode 600 for --token-file.",
            token.id(),
            new.role,
            new.name
        ));
    }
    Ok(Exit::Done)
}

async fn list(args: ListArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let mut tokens = open(&args.database, folders).await?;
    let listed = tokens.list().await?;
    tokens.close().await?;
    let now = Timestamp::now();
    if args.json {
        let listed: Vec<Value> = listed.iter().map(|token| token_json(token, now)).collect();
        output::text(&(serde_json::to_string_pretty(&listed)? + "\n"));
    } else if listed.is_empty() {
        output::note("no tokens: make one with 'regatta token create --role submitter --name NAME'");
    } else {
        for token in &listed {
            output::line(&token_line(token, now));
        }
    }
    Ok(Exit::Done)
}

fn token_line(token: &TokenRecord, now: Timestamp) -> String {
    let until = token.expires_at.map_or_else(String::new, |at| format!(", until {}", at.strftime("%Y-%m-%d %H:%M")));
    let (created, standing) = (token.created_at.strftime("%Y-%m-%d"), token.standing(now).as_str());
    format!("{}  {:<9}  {}  {standing} (made {created}{until})", token.id, token.role.as_str(), token.name)
}

fn token_json(token: &TokenRecord, now: Timestamp) -> Value {
    json!({
        "id": token.id.as_str(),
        "role": token.role.as_str(),
        "name": token.name,
        "standing": token.standing(now).as_str(),
        "created_at": token.created_at.to_string(),
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "revoked_at": token.revoked_at.map(|at| at.to_string()),
    })
}

async fn revoke(args: RevokeArgs, folders: &Folders) -> anyhow::Result<Exit> {
    // Whoever pastes a whole token here by mistake does not see it again.
    let id = args.token.parse::<regatta_core::token::Token>().map(|token| token.id().to_string());
    let which = id.unwrap_or(args.token);
    let mut tokens = open(&args.database, folders).await?;
    let revoked = tokens.revoke(&which, Timestamp::now()).await?;
    tokens.close().await?;
    let shown = regatta_core::id::shown(&which);
    let revoked = revoked
        .ok_or_else(|| BadInput(format!("there is no token of the id or name '{shown}': see 'regatta token list'")))?;
    if args.json {
        let ids: Vec<_> = revoked.iter().map(ToString::to_string).collect();
        output::json(&json!({ "revoked": ids }));
        return Ok(Exit::Done);
    }
    match revoked.len() {
        0 => output::note(&format!("'{shown}' had been revoked before")),
        _ => revoked.iter().for_each(|id| output::line(&format!("revoked {id}"))),
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_whole_numbers_of_a_unit_within_ten_years() {
        assert_eq!(period("30d").unwrap(), SignedDuration::from_hours(720));
        assert_eq!(period("90s").unwrap(), SignedDuration::from_secs(90));
        for wrong in ["", "d", "30", "0d", "-1h", "1.5h", "30ü", "99999d", "9223372036854775807d"] {
            assert!(period(wrong).unwrap_err().contains("30d"), "{wrong}");
        }
    }
}
