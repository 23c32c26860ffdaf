//! `matome token ...`

use serde_json::json;

use crate::cli::TokenCommand;
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::value_at;

pub async fn run(command: TokenCommand, console: &Console) -> Result<(), Failure> {
    let TokenCommand::Create { client, role, name } = command;
    let client = Client::connect_or_make(&client, console, false).await?;
    let body = json!({ "name": name, "role": role }).to_string();
    let row = client.post("/api/tokens/", body).await?.into_json()?;
    let token = value_at(row.get(), &["token"])
        .ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`token`".to_owned() }))?;
    println!("{token}");
    client.close().await;
    Ok(())
}
