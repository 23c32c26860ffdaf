//! Released programs that run beside matome, each with a Python in a folder of its own: `scripts/install-missing` makes
//! those.

use std::path::PathBuf;

/// One of them.
#[derive(Debug)]
pub struct Tool {
    pub name: &'static str,
    /// With the version that is run.
    folder: &'static str,
}

pub const CELERY: Tool = Tool { name: "Celery 5.7", folder: "celery-5.7.0" };
pub const DLT: Tool = Tool { name: "dlt 1.31", folder: "dlt-1.31.0" };
pub const AIRBYTE: Tool = Tool { name: "Airbyte CDK 7.39", folder: "airbyte-cdk-7.39.1" };
pub const DUCKDB: Tool = Tool { name: "DuckDB 2.0", folder: "duckdb-2.0.1" };

impl Tool {
    /// The Python that has it; nothing when it is not installed.
    pub fn python(&self) -> Option<PathBuf> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let home = cache.join("matome/tools").join(self.folder);
        home.join("complete").exists().then(|| home.join("bin/python"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_installs_each_tool_where_it_is_looked_for() {
        let script = include_str!("../../../../scripts/install-missing");
        for tool in [CELERY, DLT, AIRBYTE, DUCKDB] {
            assert!(script.contains(&format!("tool {} ", tool.folder)), "{}", tool.name);
        }
    }
}
