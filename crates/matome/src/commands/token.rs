//! `matome token ...`

use serde_json::json;

use crate::cli::TokenCommand;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::value_at;

pub async fn run(command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::Create { client, role, name } = command;
    let client = Client::connect_or_make(&client, false).await?;
    let body = json!({ "name": name, "role": role }).to_string();
    let row = client.post("/api/tokens/", body).await?.into_json()?;
    let token = value_at(row.get(), &["token"])
        .ok_or_else(|| Failure::new(Exit::Failed, "the server did not return the token"))?;
    println!("{token}");
    client.close().await;
    Ok(())
}
