//! `matome migrate`

use clap::Args;

use super::{OutputArgs, StorageArgs};

#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Says what would be done and changes nothing.
    #[arg(long, visible_alias = "dry-run")]
    pub plan: bool,
    /// Where times without a zone were written, for a database of the original application: an IANA name such as Asia/Tokyo.
    #[arg(long, value_name = "ZONE")]
    pub assume_timezone: Option<String>,
    /// What an unknown word of `source_type` or `status` becomes, such as csv=file. Repeatable.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub word: Vec<(String, String)>,
    /// Gives the ids of records and results 64 bits. Writes those tables anew; nobody can use them meanwhile.
    #[arg(long)]
    pub widen_ids: bool,
    /// Waits for a database that does not answer yet, instead of giving up after ten seconds.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err("write it as OLD=NEW, such as csv=file".to_owned()),
    }
}

pub const EXAMPLES: &str = "\
A PostgreSQL database that the original Django application made is taken over: every row and id stays. Stop that \
application\nfirst, make a backup, and look at --plan. All of it is one transaction: when it is killed, run it again.\n
Examples:\n  matome migrate\n  matome migrate --plan -o json\n  matome migrate --assume-timezone Asia/Tokyo\n  \
matome migrate --widen-ids";
