//! `matome demo`: the main job on sample data, in one process, without network, through the ordinary code.
//!
//! It serves a small REST service on loopback, writes the sample files, defines sources and aggregations
//! through the public API as a user would, runs them, and prints what happened.

mod report;
mod service;
mod setup;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::app::{App, Parts, Web};
use crate::cli::{DemoArgs, ReachArgs, StorageArgs};
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::serve::{self, Server};

/// Memory of one aggregation in MiB.
const AGGREGATION_MEMORY: u64 = 256;

/// Runs the demo until Ctrl-C.
pub async fn run(args: DemoArgs, console: &Console) -> Result<(), Failure> {
    let started = Instant::now();
    let mut signals = serve::Signals::catch()?;
    let files = args.data_dir.join("files");
    setup::write_files(&files)?;
    let shutdown = CancellationToken::new();
    let service = service::Service::start(shutdown.clone()).await.map_err(|err| cannot_listen("127.0.0.1", &err))?;
    let storage = StorageArgs::of_directory(&args.data_dir);
    let reach = ReachArgs {
        file_roots: vec![files.canonicalize().unwrap_or(files)],
        egress_allow: vec![format!("127.0.0.1/32:{}", service.address.port())],
        time_zone: "UTC".to_owned(),
    };
    let listener = listen(args.bind).await?;
    let address = listener.local_addr().map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    let web = Web { bind: Some(address.ip()), ..Web::default() };
    let parts = Parts::all(4, 2, matome_tasks::ATTEMPT_DEADLINE);
    let app = App::open(&storage, &reach, web, AGGREGATION_MEMORY, parts).await?;
    app.start_workers();
    let server = Server::default();
    server.tcp(listener, app.router());
    server.control_socket(&args.data_dir, &app)?;

    let client = Client::InProcess { app: Box::new(app.clone()), language: console.language };
    let show = async {
        let token = setup::token(&client, &args.data_dir).await?;
        let plan = setup::define(&client, service.address).await?;
        let outcome = report::first_round(&client, &plan).await?;
        let banner = report::Banner { address, data_dir: &args.data_dir, token: &token, took: started.elapsed() };
        report::print(&banner, &outcome);
        if !args.once {
            report::late_arrivals(&client, &outcome).await?;
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let result: Result<(), Failure> = tokio::select! {
        result = show => result,
        _ = signals.next() => {
            eprintln!();
            console.notice(Message::Stopping);
            Ok(())
        }
    };
    shutdown.cancel();
    server.stop().await;
    app.stop().await;
    result
}

/// The given address, or port 8000, or any free port.
async fn listen(bind: Option<SocketAddr>) -> Result<tokio::net::TcpListener, Failure> {
    if let Some(address) = bind {
        return serve::listen(address).await;
    }
    match tokio::net::TcpListener::bind("127.0.0.1:8000").await {
        Ok(listener) => Ok(listener),
        Err(err) if err.kind() == ErrorKind::AddrInUse => serve::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await,
        Err(err) => Err(cannot_listen("127.0.0.1:8000", &err)),
    }
}

fn cannot_listen(address: &str, err: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, Message::CannotListen { address: address.to_owned() })
        .because(err)
        .help(Message::GiveAddress)
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if path.is_relative() && !text.starts_with('.') { format!("./{text}") } else { text }
}
