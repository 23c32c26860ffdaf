//! What a source and an aggregation are, as far as every layer has to know.

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants have one stable word each, in the database, the API and the CLI.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word that stands for it in the database, the API and the CLI.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The value that `word` stands for, if any.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where a data source reads from.
    SourceType {
        /// A REST API.
        Api = "api",
        /// A database.
        Database = "database",
        /// Files beneath a file root.
        File = "file",
        /// A WebSocket feed.
        Websocket = "websocket",
        /// Nothing: records are sent to it.
        Push = "push",
    }
}

words! {
    /// Whether a source or an aggregation takes part in scheduling.
    SourceStatus {
        /// It runs when it is due.
        Active = "active",
        /// Paused by a person.
        Inactive = "inactive",
        /// Stopped by the system; it says why in its last task.
        Error = "error",
    }
}

words! {
    /// What makes two records of one source the same record.
    Dedupe {
        /// Equal rows of one read are all kept; reading the same content again adds nothing.
        Rows = "rows",
        /// The same content is stored once.
        Hash = "hash",
        /// Records with the same key are versions of one; each change is kept.
        Key = "key",
        /// Every record is stored.
        None = "none",
    }
}

/// The host that a source reads from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUse {
    /// Its name or address, as a request names it.
    pub host: String,
    /// How many tasks may read from it at a time, of this source and all others; `None`: this source does not say.
    pub concurrent: Option<u32>,
}
