create table ha_session (
    key            bytea       primary key,          -- SHA-256 of the id
    format         smallint    not null,
    version        bigint      not null,
    state          smallint    not null,             -- 0 live, 1 rotated, 2 destroyed
    idle_until     timestamptz not null,
    absolute_until timestamptz not null,
    ended_at       timestamptz,
    data           jsonb       not null              -- {"name": [version, "base64 of the value"]}
);

create index ha_session_idle_until on ha_session (idle_until);

-- The same rules as engine.rs, in one round trip and under the row's lock.
create function ha_session_commit_1(
    p_key bytea, p_create boolean, p_successor bytea, p_set jsonb, p_remove text[], p_expected jsonb,
    p_idle_ms bigint, p_absolute_ms bigint, p_grace_ms bigint, p_max_bytes bigint,
    out outcome text, out stored_format int, out new_version bigint, out idle_left_ms bigint,
    out absolute_left_ms bigint, out ago_ms bigint, out payload jsonb
) language plpgsql as $$
declare
    r           ha_session;
    is_new      boolean := false;
    at          timestamptz;
    next_data   jsonb;
    next_idle   timestamptz;
    total       bigint;
    conflicting jsonb;
    ms          constant interval := interval '1 millisecond';
begin
    select * into r from ha_session where key = p_key for update;
    is_new := not found;
    at := clock_timestamp();
    if is_new then
        if not p_create then
            outcome := 'missing';
            return;
        end if;
        r.version := 0;
        r.data := '{}';
        r.absolute_until := at + p_absolute_ms * ms;
    elsif r.format <> 1 then
        outcome := 'format';
        stored_format := r.format;
        return;
    elsif r.state = 2 or (r.state = 1 and at >= r.idle_until) then
        outcome := case r.state when 2 then 'destroyed' else 'rotated' end;
        ago_ms := extract(epoch from at - r.ended_at) * 1000;
        return;
    elsif at >= r.idle_until then
        outcome := 'expired';
        ago_ms := extract(epoch from at - r.idle_until) * 1000;
        return;
    elsif r.state = 1 then
        outcome := 'superseded';
        return;
    end if;

    select jsonb_agg(e.key) into conflicting from jsonb_each_text(p_expected) e
        where coalesce((r.data -> e.key ->> 0)::bigint, 0) <> e.value::bigint;
    if conflicting is not null then
        outcome := 'conflict';
        payload := conflicting;
        return;
    end if;

    new_version := greatest(r.version + 1, floor(extract(epoch from at) * 1000)::bigint);
    select (r.data - p_remove) || coalesce(jsonb_object_agg(s.key, jsonb_build_array(new_version, s.value)), '{}')
        into next_data from jsonb_each_text(p_set) s;
    select coalesce(sum(octet_length(d.key) + octet_length(decode(d.value ->> 1, 'base64'))), 0)
        into total from jsonb_each(next_data) d;
    if total > p_max_bytes then
        outcome := 'too_large';
        new_version := total;
        return;
    end if;

    next_idle := least(r.absolute_until, at + p_idle_ms * ms);
    if p_successor is not null and not is_new then
        update ha_session set state = 1, version = new_version, ended_at = at,
            idle_until = least(r.idle_until, at + p_grace_ms * ms) where key = p_key;
    end if;
    if is_new or p_successor is not null then
        insert into ha_session (key, format, version, state, idle_until, absolute_until, data)
            values (coalesce(p_successor, p_key), 1, new_version, 0, next_idle, r.absolute_until, next_data);
    else
        update ha_session set version = new_version, idle_until = next_idle, data = next_data where key = p_key;
    end if;
    outcome := 'committed';
    idle_left_ms := extract(epoch from next_idle - at) * 1000;
    absolute_left_ms := extract(epoch from r.absolute_until - at) * 1000;
    payload := next_data;
end
$$;
