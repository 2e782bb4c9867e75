"""Is the platform itself well: sidecars, Envoy's side, quotas, engines' spools, ledger, exports, cardinality."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import SIDECAR, Row, made
from tenantry_dashboards.queries import MODEL, Query


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        SIDECAR,
        "Is the platform itself well. Isolation and money fail closed: red here means refused requests, not leaks.",
        [
            Row(title="Now", panels=_now()),
            Row(title="Sidecar", panels=_sidecar()),
            Row(title="Envoy's side", panels=_envoy()),
            Row(title="Quotas and usage", panels=_quotas()),
            Row(title="Spools on engines", panels=_spools()),
            Row(title="Ledger and exports", panels=_ledger()),
            Row(title="Cardinality", panels=_cardinality()),
        ],
    )


def _now() -> list[Panel]:
    up = q.raw("up")
    failing = q.rate(q.raw("envoy_http_ext_proc_streams_failed"))
    stores = f"min({q.raw('tenantry_state_store_up')} or {q.raw('tenantry_quota_store_up')})"
    errors = q.quiet(q.rate(q.raw("tenantry_internal_errors_total")), q.SIDECAR)
    return [
        p.value(
            "Processes up",
            "Share of scraped processes that answer, by job. Below 100 %: `kubectl get pods`; one of two sidecars is "
            "enough to serve.",
            p.SHARE, Query(expr=f"avg by (job) ({up})", legend="{{job}}"), width=8, limits=p.below(0.5, 1),
        ),
        p.value(
            "Newest rules live",
            "0: the newest document was refused and the last good one serves. `tenantry check` or GET /rules says why.",
            p.COUNT,
            Query(expr=f"min by (job) ({q.raw('tenantry_rules_last_reload_ok')})", legend="{{job}}"),
            limits=p.below(1, 1),
        ),
        p.value(
            "ext_proc streams that failed",
            "Per second, seen by Envoy: each is a request refused with 503. Not 0: sidecars are away, overloaded, or "
            "Envoy cannot reach them.",
            p.PER_SECOND, Query(expr=failing, legend="failed"), limits=p.above(None, 0.001),
        ),
        p.value(
            "Stores of state and quotas",
            "0: Redis or the file does not answer. Requests are served by the last known state, and each replica keeps "
            "quotas by itself.",
            p.COUNT, Query(expr=stores, legend="up"), limits=p.below(1, 1),
        ),
        p.value(
            "Internal errors",
            "Streams per second that a bug ended; their requests are refused. The log has the trace.",
            p.PER_SECOND, Query(expr=errors, legend="errors"), limits=p.above(None, 0.001),
        ),
    ]  # fmt: skip


def _sidecar() -> list[Panel]:
    exchanges = q.rate(q.raw("tenantry_ext_proc_exchanges_total"), "state")
    messages = (
        f"{q.rate(q.raw('tenantry_ext_proc_messages_total'))} / {q.rate(q.raw('tenantry_ext_proc_exchanges_total'))}"
    )
    reloads = q.happened(q.raw("tenantry_rules_reloads_total"), "result")
    refusals = q.rate(q.raw("tenantry_refusals_total"), "code")
    return [
        p.line_chart(
            "Time to decide",
            "The sidecar's own time for an exchange, all its messages together. A p99 above 10 ms: too little CPU, or "
            "a garbage collection; add replicas.",
            p.SECONDS,
            *(
                Query(expr=q.quantile(share, "tenantry_decision_seconds"), legend=name)
                for share, name in ((0.5, "p50"), (0.99, "p99"))
            ),
            width=8, limits=p.above(0.005, 0.01),
        ),
        p.line_chart(
            "Open exchanges by sidecar",
            "Requests under way. Uneven for long: Envoy sends its streams to one of them; look at its load balancing.",
            p.COUNT, Query(expr=q.total(q.raw("tenantry_ext_proc_open_exchanges"), "instance"), legend="{{instance}}"),
            width=8,
        ),
        p.line_chart(
            "Exchanges by last state",
            "Per second. `failed` should not be there; `await ...` are clients that left in the middle.",
            p.PER_SECOND, Query(expr=exchanges, legend="{{state}}"), width=8, stacked=True,
        ),
        p.line_chart(
            "Refusals by reason",
            "Per second. docs/errors.md explains the codes.",
            p.REQUESTS, Query(expr=q.quiet(refusals, q.SIDECAR, "code"), legend="{{code}}"), width=8,
        ),
        p.line_chart(
            "Messages for each exchange",
            "2 for a POST to a model. Higher: Envoy sends what nobody asked for; compare its processing mode.",
            p.COUNT, Query(expr=messages, legend="messages"), width=8,
        ),
        p.bars(
            "Reloads in the time that is shown",
            "Documents by result, added up over sidecars.",
            p.COUNT, Query(expr=q.quiet(reloads, q.SIDECAR, "result"), legend="{{result}}"), width=8,
        ),
    ]  # fmt: skip


def _envoy() -> list[Panel]:
    def of_filter(name: str, legend: str) -> Query:
        return Query(expr=q.rate(q.raw(f"envoy_http_ext_proc_{name}")), legend=legend)

    return [
        p.line_chart(
            "ext_proc streams",
            "Per second. failed: refused with 503; timeouts: a sidecar hangs; let pass: must be 0, Envoy's "
            "failure_mode_allow is on by mistake.",
            p.PER_SECOND,
            of_filter("streams_started", "started"),
            of_filter("streams_failed", "failed"),
            of_filter("message_timeouts", "timeouts"),
            of_filter("failure_mode_allowed", "let pass"),
            width=8,
        ),
        p.line_chart(
            "Wrong answers of a sidecar",
            "Per second. Not 0: versions of Envoy and sidecar do not suit each other, or Envoy's mutation rules are "
            "too narrow.",
            p.PER_SECOND,
            of_filter("spurious_msgs_received", "not expected"),
            of_filter("rejected_header_mutations", "headers not taken"),
            width=8,
        ),
        p.line_chart(
            "Stopped by the backstop",
            "Requests per second without the sidecar's mark, and log entries it never decided. Not 0: a stream ended "
            "without an answer (a bug), or a route goes around ext_proc.",
            p.REQUESTS,
            Query(expr=q.rate(q.raw("envoy_http_rbac_denied")), legend="denied by RBAC"),
            Query(expr=q.rate(q.raw("tenantry_access_log_unattributed_total")), legend="log entries of nobody"),
            width=8,
        ),
    ]  # fmt: skip


def _quotas() -> list[Panel]:
    settled = q.rate(q.raw("tenantry_quota_settlements_total"), "result")
    unshared = q.rate(q.raw("tenantry_quota_unshared_admissions_total"), "granted")
    reckoned = q.rate(q.raw("tenantry_usage_reckoned_total"), "source")
    posted = q.rate(q.raw("tenantry_usage_records_total"), "result")
    sent = q.rate(q.raw("tenantry_ledger_outbox_records_total"), "result")
    late = Query(expr=q.quantile(0.99, "tenantry_usage_record_delay_seconds"), legend="p99")
    return [
        p.line_chart(
            "Quota reservations settled",
            "Per second, by what settled them. Few by an engine's record: records do not come, and estimates count.",
            p.PER_SECOND,
            Query(expr=q.quiet(settled, q.SIDECAR, "result"), legend="{{result}}"),
            Query(expr=q.rate(q.raw("tenantry_quota_settlements_dropped_total")), legend="dropped"),
            width=8,
        ),
        p.line_chart(
            "Decided without the shared store",
            "Requests per second. Not 0: replicas together may admit their number times a limit. Mend Redis.",
            p.REQUESTS, Query(expr=q.quiet(unshared, q.SIDECAR, "granted"), legend="granted: {{granted}}"), width=8,
        ),
        p.line_chart(
            "Usage records from engines",
            "Per second, as posted to sidecars. refused: a wrong token, or a plugin of another release.",
            p.PER_SECOND, Query(expr=q.quiet(posted, q.SIDECAR, "result"), legend="{{result}}"), width=8,
        ),
        p.line_chart(
            "Delay of usage records",
            "From a request's end to its record. Above 10 s: guards and quotas decide on old news.",
            p.SECONDS, late, width=8, limits=p.above(10, 30),
        ),
        p.line_chart(
            "Usage reckoned by the sidecar",
            "Records per second for models without the plugin, by source. `unseen`: answers pass unread and are billed "
            "by their prompts alone; generate Envoy's bootstrap anew.",
            p.PER_SECOND, Query(expr=q.quiet(reckoned, q.SIDECAR, "source"), legend="{{source}}"), width=8,
        ),
        p.line_chart(
            "Sidecar's outbox to the ledger",
            "Records per second by result, and how many wait. refused or dropped: money is lost; read outbox.db's "
            "reasons.",
            p.COUNT,
            Query(expr=q.quiet(sent, q.SIDECAR, "result"), legend="{{result}} per second"),
            Query(expr=q.total(q.raw("tenantry_ledger_outbox_waiting")), legend="waiting"),
            width=8,
        ),
    ]  # fmt: skip


def _spools() -> list[Panel]:
    full = q.ratio(
        q.most(q.raw("tenantry_spool_waiting_bytes", MODEL), "engine"),
        q.most(q.raw("tenantry_spool_limit_bytes", MODEL), "engine"),
    )
    lost = [
        q.rate(q.raw(name, MODEL), by)
        for name, by in (
            ("tenantry_spool_dropped_records_total", "reason"),
            ("tenantry_spool_refused_records_total", ""),
            ("tenantry_metering_faults_total", "hook"),
        )
    ]
    disk = q.total(q.raw("tenantry_spool_disk_state", MODEL, 'state!="ok"'), "state")
    return [
        p.line_chart(
            "Oldest record that waits",
            "By engine. Above a minute: the ledger does not take records, or the engine does not reach it. Nothing is "
            "lost until the spool is full.",
            p.SECONDS,
            Query(
                expr=q.most(q.raw("tenantry_spool_oldest_waiting_seconds", MODEL), "engine"), legend="{{engine}}"
            ),
            width=8, limits=p.above(60, 300),
        ),
        p.line_chart(
            "Records that wait",
            "By engine. Grows at one alone: it does not reach the ledger; at all of them: the ledger is away.",
            p.COUNT,
            Query(expr=q.most(q.raw("tenantry_spool_waiting_records", MODEL), "engine"), legend="{{engine}}"),
            width=8, stacked=True,
        ),
        p.line_chart(
            "Spool filled",
            "Bytes that wait over the spool's limit. At 100 % the newest records are dropped, and are never billed.",
            p.SHARE, Query(expr=full, legend="{{engine}}"), width=8, limits=p.above(0.5, 0.9),
        ),
        p.line_chart(
            "Records lost",
            "Per second. dropped: no room, or the disk failed; refused: set aside as the ledger did not understand "
            "them; faults: the plugin could not meter a step.",
            p.PER_SECOND,
            Query(expr=q.quiet(lost[0], q.ENGINE, "reason"), legend="dropped: {{reason}}"),
            Query(expr=q.quiet(lost[1], q.ENGINE), legend="refused"),
            Query(expr=q.quiet(lost[2], q.ENGINE, "hook"), legend="fault: {{hook}}"),
            width=12, limits=p.above(None, 0.001),
        ),
        p.line_chart(
            "Engines with a disk that is not well",
            "low: room is short; full and error: records are kept in memory alone, and dropped when that is full.",
            p.COUNT, Query(expr=disk, legend="{{state}}"), width=12, limits=p.above(None, 1),
        ),
    ]  # fmt: skip


def _ledger() -> list[Panel]:
    booked = q.rate(q.raw("tenantry_ledger_records_total"), "kind, result")
    newest = f"time() - {q.most(q.raw('tenantry_ledger_newest_record_timestamp_seconds'))}"
    drift = q.most(q.recorded("tenantry:ledger_drift:ratio1h", MODEL), "model, version")
    pending = q.most(q.raw("tenantry_export_pending"), "destination")
    events = q.rate(q.raw("tenantry_export_events_total"), "destination, result")
    parked = q.most(q.raw("tenantry_export_parked"), "destination")
    trouble = q.most(q.raw("tenantry_export_trouble"), "destination")
    oldest = q.most(q.raw("tenantry_export_oldest_pending_seconds"), "destination")
    return [
        p.line_chart(
            "Records booked",
            "Per second. `known` came twice, which is harmless; `refused` were not understood: engines and ledger are "
            "of different releases.",
            p.PER_SECOND, Query(expr=booked, legend="{{kind}} {{result}}"), width=8,
        ),
        p.line_chart(
            "Delay of booking, and age of the newest record",
            "p99 from the end of what a record tells of. Both rise: nothing comes in; look at the spools.",
            p.SECONDS,
            Query(expr=q.quantile(0.99, "tenantry_ledger_delay_seconds"), legend="delay p99"),
            Query(expr=newest, legend="newest is this old"),
            width=8, limits=p.above(60, 600),
        ),
        p.line_chart(
            "GPU time without a record",
            "Share of engines' busy time that no request accounts for, over an hour. A few per cent is what goes on "
            "now; more and growing: records are lost, or a spool waits.",
            p.SHARE, Query(expr=drift, legend="{{model}} {{version}}"),
            width=8, limits=p.above(0.01, 0.02), lowest=None,
        ),
        p.line_chart(
            "Unaccounted GPU-seconds of this period",
            "Busy time of the month that no record accounts for, with what a crash took.",
            p.SECONDS,
            Query(
                expr=q.most(q.raw("tenantry_ledger_unaccounted_gpu_seconds", MODEL), "model, version"),
                legend="{{model}} {{version}}",
            ),
            width=8, lowest=None,
        ),
        p.line_chart(
            "Ledger away",
            "Answers 503 per second: its database is away, or too much waits. Senders keep their records meanwhile.",
            p.PER_SECOND,
            Query(expr=q.rate(q.raw("tenantry_ledger_unavailable_total")), legend="ledger"),
            Query(expr=q.quiet(q.rate(q.raw("tenantry_export_ledger_failures_total")), q.LEDGER), legend="export"),
            width=8, limits=p.above(None, 0.001),
        ),
        p.line_chart(
            "Exports",
            "Events by destination. parked ones wait for a person; trouble is 1 while a destination takes nothing.",
            p.COUNT,
            Query(expr=_or_none(pending), legend="{{destination}} pending"),
            Query(expr=_or_none(parked), legend="{{destination}} parked"),
            Query(expr=_or_none(trouble), legend="{{destination}} trouble"),
            Query(expr=_or_none(events), legend="{{destination}} {{result}} per second"),
            width=8,
        ),
        p.line_chart(
            "Oldest event to export",
            "Age by destination. It rises while a destination is away; nothing is lost.",
            p.SECONDS, Query(expr=_or_none(oldest), legend="{{destination}}"), width=8, limits=p.above(3_600, 86_400),
        ),
    ]  # fmt: skip


def _or_none(expr: str) -> str:
    return q.quiet(expr, q.LEDGER, "destination")


def _cardinality() -> list[Panel]:
    values, limit = (q.most(q.raw(f"tenantry_metric_label_{name}"), "job, label") for name in ("values", "limit"))
    return [
        p.bars(
            "Names in the rules over how many get a label",
            "Above 100 %: the rest count as `other` here, and the ledger still knows them one by one. Raise "
            "`metrics.maxTenants` if Prometheus has room.",
            p.SHARE, Query(expr=q.ratio(values, limit), legend="{{label}} ({{job}})"),
            width=12, limits=p.above(0.8, 0.9), most=1.2,
        ),
        p.line_chart(
            "Series scraped",
            "Samples of each scrape by job, added up over processes: what Prometheus has to keep.",
            p.COUNT,
            Query(expr=q.total(q.raw("scrape_samples_post_metric_relabeling"), "job"), legend="{{job}}"),
            width=12, stacked=True,
        ),
    ]  # fmt: skip
