//! Removing what belongs to deleted sources, some rows at a time.

use matome_model::task::LaneKind;

use crate::db::{Arg, Conn};
use crate::error::Result;

struct Owned {
    /// A deleted source whose lanes are all free.
    next: &'static str,
    /// Statements that remove at most `$2` rows of source `$1`, in an order that foreign keys allow.
    batches: &'static [&'static str],
    /// Statements that remove the little that is left of source `$1`.
    rest: &'static [&'static str],
}

const SOURCE: Owned = Owned {
    next: "select t.id from data_sources t where t.deleted_at is not null
and not exists (select 1 from lanes l where l.kind = 'source' and l.object_id = t.id and l.lease_worker is not null)
order by t.id limit 1",
    batches: &[
        "delete from acquired_data where id in (select id from acquired_data where source_id = $1 limit $2)",
        "delete from repeats where id in (select id from repeats where source_id = $1 limit $2)",
        "delete from met_versions where id in (select id from met_versions where source_id = $1 limit $2)",
        "delete from seen_versions where id in (select id from seen_versions where source_id = $1 limit $2)",
        "delete from pushes where id in (select id from pushes where source_id = $1 limit $2)",
        "delete from inbox where id in (select id from inbox where source_id = $1 limit $2)",
        "delete from quarantine where id in (select id from quarantine where source_id = $1 limit $2)",
        "delete from tasks where id in (select id from tasks where queue = 'acquisition' and object_id = $1 limit $2)",
    ],
    rest: &[
        "delete from source_schemas where source_id = $1",
        "delete from removals where source_id = $1",
        "delete from source_bytes where source_id = $1",
        "delete from sweeps where source_id = $1",
        "delete from checkpoints where source_id = $1",
        "delete from counters where table_name in ('acquired_data', 'quarantine', 'pushes', 'push_bytes')
and source_id = $1",
        "delete from secrets where kind = 'source' and object_id = $1",
        "delete from schedules where kind = 'source' and object_id = $1",
        "delete from changes where kind = 'source' and object_id = $1",
        "delete from adoptions where kind = 'source' and object_id = $1",
        "delete from lanes where kind = 'source' and object_id = $1",
        "delete from data_sources where id = $1",
    ],
};

const AGGREGATION: Owned = Owned {
    next: "select t.id from aggregation_sources t where t.deleted_at is not null
and not exists (select 1 from lanes l where l.kind = 'aggregation' and l.object_id = t.id and l.lease_worker is not null)
order by t.id limit 1",
    batches: &[
        "delete from aggregated_data where id in (select id from aggregated_data where source_id = $1 limit $2)",
        "delete from aggregation_runs where id in (select id from aggregation_runs where source_id = $1 limit $2)",
        "delete from tasks where id in (select id from tasks where queue = 'aggregation' and object_id = $1 limit $2)",
    ],
    rest: &[
        "delete from counters where table_name = 'aggregated_data' and source_id = $1",
        "delete from secrets where kind = 'aggregation' and object_id = $1",
        "delete from schedules where kind = 'aggregation' and object_id = $1",
        "delete from changes where kind = 'aggregation' and object_id = $1",
        "delete from adoptions where kind = 'aggregation' and object_id = $1",
        "delete from aggregation_triggers where aggregation_id = $1",
        "delete from lanes where kind = 'aggregation' and object_id = $1",
        "delete from aggregation_sources where id = $1",
    ],
};

pub(crate) async fn remove_batch(conn: &mut Conn<'_>, kind: LaneKind, limit: i64) -> Result<bool> {
    let owned = match kind {
        LaneKind::Source => &SOURCE,
        LaneKind::Aggregation => &AGGREGATION,
    };
    let Some(row) = conn.fetch_optional(owned.next, &[]).await? else { return Ok(false) };
    let id = row.int("id")?;
    for sql in owned.batches {
        if conn.execute(*sql, &[id.into(), limit.into()]).await? > 0 {
            return Ok(true);
        }
    }
    let args: [Arg<'_>; 1] = [id.into()];
    for sql in owned.rest {
        conn.execute(*sql, &args).await?;
    }
    Ok(true)
}
