//! `farshore snapshot schedule …`.

use farshore_proto::v1 as api;

use super::snapshots::unless_yes;
use crate::args::Format;
use crate::client::{Replicator, present};
use crate::failure::Failure;
use crate::output;
use crate::schedule_args::{ScheduleArgs, ScheduleVerb};
use crate::schedule_views::{ScheduleDeletedView, ScheduleListView, ScheduleView};

pub async fn run(format: Format, replicator: &Replicator, verb: ScheduleVerb) -> Result<(), Failure> {
    let mut snapshots = replicator.snapshots();
    match verb {
        ScheduleVerb::Create(args) => {
            let made = snapshots.create_schedule(request(args)).await?.into_inner().schedule;
            output::print(format, &ScheduleView::from(present(made)?))
        }
        ScheduleVerb::List { volumes } => {
            let listed = snapshots.list_schedules(api::ListSchedulesRequest { volumes }).await?.into_inner().schedules;
            output::print(format, &ScheduleListView { schedules: listed.into_iter().map(Into::into).collect() })
        }
        ScheduleVerb::Show { volume, name } => {
            let found = snapshots.get_schedule(api::GetScheduleRequest { volume, name }).await?.into_inner().schedule;
            output::print(format, &ScheduleView::from(present(found)?))
        }
        ScheduleVerb::Delete { volume, name, yes } => {
            let asked = api::GetScheduleRequest { volume: volume.clone(), name: name.clone() };
            snapshots.get_schedule(asked).await?;
            let message = format!("{volume} would have no more snapshots made by schedule {name}");
            unless_yes(yes, message, &format!("schedule delete {volume} {name}"))?;
            let request = api::DeleteScheduleRequest { volume: volume.clone(), name: name.clone() };
            snapshots.delete_schedule(request).await?;
            output::print(format, &ScheduleDeletedView { volume, deleted: name })
        }
    }
}

fn request(args: ScheduleArgs) -> api::CreateScheduleRequest {
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    api::CreateScheduleRequest {
        volume: args.volume,
        name: args.name,
        interval_ms: ms(args.every),
        keep: args.keep.unwrap_or(0),
        keep_for_ms: args.keep_for.map_or(0, ms),
        pattern: args.pattern,
        labels: args.labels.into_iter().collect(),
    }
}
