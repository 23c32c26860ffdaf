//! DataFusion, set up for one query over given tables.

use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use matome_model::engine::{Limits, Schema};

use crate::PARTITIONS;
use crate::exact::{CheckedIntegers, DecimalSums};
use crate::table::FileTable;

const CATALOG: &str = "matome";

/// The schema of unqualified names: sources, and the aggregations that no source hides. Queries cannot name it.
const UNQUALIFIED: &str = "unqualified";

/// Consumers named when memory runs out.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// A session that knows `tables` and nothing else: no files, no object stores, no information schema.
pub(crate) fn session(
    tables: Vec<(matome_model::engine::Table, Arc<FileTable>)>,
    limits: &Limits,
) -> Result<SessionContext, DataFusionError> {
    let memory = usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), NAMED_CONSUMERS)))
        .with_temp_file_path(".")
        .with_max_temp_directory_size(limits.spill_bytes)
        .build_arc()?;

    let mut config = SessionConfig::new()
        .with_target_partitions(PARTITIONS)
        .with_information_schema(false)
        // Each sort sets this aside for merging. It must hold more than one batch of each run: the fair pool lets the other
        // sorts fill up their shares, and a merge that begins then finds nothing left and fails a query that could spill.
        .with_sort_spill_reservation_bytes((memory / 12).max(256 << 10))
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, UNQUALIFIED);
    let parser = &mut config.options_mut().sql_parser;
    // Names are exact as written.
    parser.enable_ident_normalization = false;
    // `0.1` in a query is as exact as `0.1` in a record.
    parser.parse_float_as_decimal = true;

    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_analyzer_rule(Arc::new(CheckedIntegers))
        .build();
    let mut session = SessionContext::new_with_state(state);
    session.register_function_rewrite(Arc::new(DecimalSums))?;
    let catalog = MemoryCatalogProvider::new();
    let unqualified = MemorySchemaProvider::new();
    for schema in [Schema::Sources, Schema::Aggregations] {
        let provider = MemorySchemaProvider::new();
        for (name, table) in tables.iter().filter(|(name, _)| name.schema == schema) {
            provider.register_table(name.name.clone(), Arc::clone(table) as _)?;
            if !unqualified.table_exist(&name.name) {
                unqualified.register_table(name.name.clone(), Arc::clone(table) as _)?;
            }
        }
        catalog.register_schema(schema.name(), Arc::new(provider))?;
    }
    catalog.register_schema(UNQUALIFIED, Arc::new(unqualified))?;
    session.register_catalog(CATALOG, Arc::new(catalog));
    Ok(session)
}
