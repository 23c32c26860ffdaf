//! From a parsed config to a connector, with what connectors need from the outside.

use std::sync::Arc;
use std::time::Duration;

use matome_egress::{EgressError, HttpClient};
use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_model::source::SourceType;

use crate::api::{ApiConnector, Auth, Probe, Tokens};
use crate::config::{ParsedConfig, validate_config};
use crate::database::{self, DatabaseConnector, Table};
use crate::error::ConnectorError;
use crate::file::{self, FileConnector, FileRoots, Means, Place};
use crate::probe::{Finding, Proposal};
use crate::read::Connector;
use crate::websocket::WebsocketConnector;

/// What connectors are made of. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    roots: Arc<FileRoots>,
    client: HttpClient,
    clock: Clock,
    tokens: Tokens,
}

impl Registry {
    /// Connectors that read files beneath `roots` and make requests with `client`.
    pub fn new(roots: FileRoots, client: HttpClient, clock: Clock) -> Self {
        Self { roots: Arc::new(roots), client, clock, tokens: Tokens::default() }
    }

    fn means(&self) -> Means {
        Means { client: self.client.clone(), clock: self.clock.clone(), tokens: self.tokens.clone() }
    }

    /// The connector that `config` describes.
    ///
    /// # Errors
    /// [`ConnectorError::Draft`] when there is nothing to read yet.
    pub fn connector(&self, config: ParsedConfig) -> Result<Box<dyn Connector>, ConnectorError> {
        match config {
            ParsedConfig::Draft => Err(ConnectorError::Draft),
            // What was sent is in the store, which nobody here knows.
            ParsedConfig::Push(_) => Err(ConnectorError::Pushed),
            ParsedConfig::File(config) => {
                if let Place::Http(place) = &config.place {
                    Auth::check(place.auth.as_ref())?;
                }
                let means = self.means().with(&config.tls, &self.roots, config.place.origins())?;
                Ok(Box::new(FileConnector::new(*config, self.roots.clone(), means)))
            }
            ParsedConfig::Database(config) => {
                Ok(Box::new(DatabaseConnector::new(*config, self.roots.clone(), self.client.dialer())))
            }
            ParsedConfig::Api(config) => {
                Auth::check(config.auth.as_ref())?;
                let client = config.tls.client(&self.client, &self.roots, config.origins())?;
                Ok(Box::new(ApiConnector::new(*config, client, self.clock.clone(), self.tokens.clone())))
            }
            ParsedConfig::Websocket(config) => {
                Auth::check(config.auth.as_ref())?;
                let client = config.tls.client(&self.client, &self.roots, config.origins())?;
                Ok(Box::new(WebsocketConnector::new(*config, client, self.clock.clone(), self.tokens.clone())))
            }
        }
    }

    /// Which type of source is to read what is at the `url` of `config`: an API, unless what its server says, or its name, is that of a
    /// file, which a config with a `path` is for; and the config of that type, with how that is told. Where nothing is
    /// to be chosen, or the server does not say, it is as it was given.
    ///
    /// # Errors
    /// When nobody answers in time: whoever asked again would wait as long once more.
    pub async fn choose(&self, config: &str) -> Result<(SourceType, String, Option<Finding>), ConnectorError> {
        let (api, file) = (SourceType::Api, SourceType::File);
        if file::has_path(config) {
            return Ok((file, config.to_owned(), None));
        }
        let Some(of_file) = file::of_address(config) else { return Ok((api, config.to_owned(), None)) };
        let finding = |option, words: Option<Words>| words.map(|words| Finding { option, value: None, words });
        match file::is_file(&self.roots, self.means(), &of_file).await {
            Ok((true, words)) => Ok((file, of_file, finding("path", words))),
            Ok((false, words)) => Ok((api, config.to_owned(), finding("url", words))),
            Err(
                error @ ConnectorError::Egress {
                    source: EgressError::Timeout { .. } | EgressError::Unanswered { .. },
                    ..
                },
            ) => Err(error),
            // Whoever looks at it says why.
            Err(_) => Ok((api, config.to_owned(), None)),
        }
    }

    /// Looks at the API or the files that `config`, with its secrets in place, describes as far as it does, and proposes the
    /// rest. Guesses at an API go on for `time` at most.
    ///
    /// # Errors
    /// [`ConnectorError`] when the config is wrong, what it names can not be read, or nothing of `source_type` is looked at.
    pub async fn probe(
        &self,
        source_type: SourceType,
        config: &str,
        time: Duration,
    ) -> Result<Proposal, ConnectorError> {
        match source_type {
            SourceType::Api => {
                let client = match validate_config(source_type, config) {
                    Ok(ParsedConfig::Api(config)) => {
                        Auth::check(config.auth.as_ref())?;
                        config.tls.client(&self.client, &self.roots, config.origins())?
                    }
                    // Whoever looks at it says why.
                    _ => self.client.clone(),
                };
                Probe::new(client, self.clock.clone(), self.tokens.clone(), time).run(config).await
            }
            SourceType::File => file::propose(self.roots.clone(), self.means(), config.to_owned()).await,
            SourceType::Database => database::propose(self.roots.clone(), self.client.dialer(), config).await,
            SourceType::Websocket | SourceType::Push => Err(ConnectorError::Draft),
        }
    }

    /// The tables among which a `config` of a database has to choose, at least one; `None` when it says what is read.
    ///
    /// # Errors
    /// [`ConnectorError`] when the config is wrong, or the database can not be read or has none.
    pub async fn tables(&self, config: &str) -> Result<Option<Vec<Table>>, ConnectorError> {
        if database::names_relation(config) {
            return Ok(None);
        }
        database::list(self.roots.clone(), self.client.dialer(), config).await.map(Some)
    }

    /// As [`Registry::connector`], from the JSON text of a config with its secrets in place.
    ///
    /// # Errors
    /// [`ConnectorError::Config`] when it does not validate, [`ConnectorError::Draft`] when it is a draft.
    pub fn open(&self, source_type: SourceType, config: &str) -> Result<Box<dyn Connector>, ConnectorError> {
        self.connector(validate_config(source_type, config).map_err(ConnectorError::Config)?)
    }
}
