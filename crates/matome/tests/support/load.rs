//! Work that goes on while something breaks.

use serde_json::{Value, json};

use super::{Home, Server, Tally, until};

/// Records of each source.
pub const ROWS: usize = 1_000;

/// Sources that read a slow list, nothing of which is deduplicated: a page that is stored twice shows.
pub struct Load {
    sources: Vec<(i64, String)>,
}

impl Load {
    pub async fn start(server: &Server, upstream: std::net::SocketAddr) -> Self {
        let config = json!({
            "url": format!("http://{upstream}/rows"), "records": "$.results", "dedupe": "none",
            "pagination": { "type": "next_link", "next": "$.next" }
        });
        let mut sources = Vec::new();
        for n in 0..4 {
            let source = server.source(&format!("rows{n}"), "api", config.clone()).await;
            sources.push((source, server.start("acquisition", source).await));
        }
        let load = Self { sources };
        until("some pages are stored", async || stored(server).await >= 100).await;
        load
    }

    /// Waits for the end of all of it, compares what is stored and checks the database.
    pub async fn settle(self, home: &Home, server: &Server, tally: &mut Tally) {
        for (source, task) in &self.sources {
            until("it answers", async || server.try_get(task).await.is_some()).await;
            let row = server.ended(task).await;
            assert_eq!((&row["status"], &row["result"]["stored"]), (&json!("succeeded"), &json!(ROWS)), "{row}");
            let id = source.to_string();
            let export = ["data", "export", "--source", &id, "--server", &server.base, "--token", &server.token];
            let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
            let exported = home.ok(&export);
            tally.compare(0..ROWS as u64, exported.lines().map(value), &format!("source {source}"));
        }
        tally.tasks += self.sources.len();
        home.ok(&["db", "check", "--full"]);
        tally.tell();
    }
}

async fn stored(server: &Server) -> u64 {
    server.get("/api/acquisition/data/?page_size=1").await["count"].as_u64().unwrap()
}
