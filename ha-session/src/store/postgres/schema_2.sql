alter table ha_session
    add column successor  bytea,                              -- slot tag and key under which a rotated session goes on
    add column principal  text,                               -- whose it is
    add column epoch      bigint      not null default 0,     -- the principal's when it was claimed
    add column device     text,
    add column claimed_at timestamptz,
    add column used_at    timestamptz not null default now();

create index ha_session_principal on ha_session (principal) where principal is not null and state = 0;

-- The newest revocation of all sessions of a principal: what was claimed at a lower epoch is gone.
create table ha_session_revocation (
    principal  text        primary key,
    epoch      bigint      not null,
    revoked_at timestamptz not null
);

create index ha_session_revocation_revoked_at on ha_session_revocation (revoked_at);

-- The same rules as engine.rs, in one round trip and under the row's lock.
create function ha_session_commit_2(
    p_key bytea, p_create boolean, p_successor bytea, p_set jsonb, p_remove text[], p_expected jsonb,
    p_idle_ms bigint, p_absolute_ms bigint, p_grace_ms bigint, p_max_bytes bigint, p_principal text, p_device text,
    out outcome text, out stored_format int, out new_version bigint, out idle_left_ms bigint,
    out absolute_left_ms bigint, out ago_ms bigint, out payload jsonb, out owner text, out owner_epoch bigint,
    out revoked_ago_ms bigint
) language plpgsql as $$
declare
    r           ha_session;
    v           ha_session_revocation;
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
        r.epoch := 0;
        r.absolute_until := at + p_absolute_ms * ms;
    else
        if r.format <> 1 then
            outcome := 'format';
            stored_format := r.format;
            return;
        end if;
        if r.state = 2 or (r.state = 1 and at >= r.idle_until) then
            outcome := case r.state when 2 then 'destroyed' else 'rotated' end;
            ago_ms := extract(epoch from at - r.ended_at) * 1000;
            return;
        end if;
        if r.principal is not null then
            select * into v from ha_session_revocation where principal = r.principal;
            if found and r.epoch < v.epoch then
                outcome := 'revoked';
                ago_ms := extract(epoch from at - v.revoked_at) * 1000;
                return;
            end if;
        end if;
        if at >= r.idle_until then
            outcome := 'expired';
            ago_ms := extract(epoch from at - r.idle_until) * 1000;
            return;
        end if;
        if r.state = 1 then
            outcome := 'superseded';
            return;
        end if;
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

    if p_successor is not null and not is_new then
        update ha_session set state = 1, version = new_version, ended_at = at, successor = p_successor,
            idle_until = least(r.idle_until, at + p_grace_ms * ms) where key = p_key;
    end if;
    if p_principal is not null then
        select * into v from ha_session_revocation where principal = p_principal;
        r.principal := p_principal;
        r.epoch := coalesce(v.epoch, 0);
        r.device := p_device;
        r.claimed_at := at;
    end if;
    next_idle := least(r.absolute_until, at + p_idle_ms * ms);
    if is_new or p_successor is not null then
        insert into ha_session (key, format, version, state, idle_until, absolute_until, data, principal, epoch, device,
                claimed_at, used_at)
            values (coalesce(substring(p_successor from 3), p_key), 1, new_version, 0, next_idle, r.absolute_until,
                next_data, r.principal, r.epoch, r.device, r.claimed_at, at);
    else
        update ha_session set version = new_version, idle_until = next_idle, data = next_data, principal = r.principal,
            epoch = r.epoch, device = r.device, claimed_at = r.claimed_at, used_at = at where key = p_key;
    end if;
    outcome := 'committed';
    idle_left_ms := extract(epoch from next_idle - at) * 1000;
    absolute_left_ms := extract(epoch from r.absolute_until - at) * 1000;
    payload := next_data;
    owner := r.principal;
    owner_epoch := r.epoch;
    revoked_ago_ms := extract(epoch from at - v.revoked_at) * 1000;
end
$$;

-- Nodes of the version before go on, and keep whose a session is.
create or replace function ha_session_commit_1(
    p_key bytea, p_create boolean, p_successor bytea, p_set jsonb, p_remove text[], p_expected jsonb,
    p_idle_ms bigint, p_absolute_ms bigint, p_grace_ms bigint, p_max_bytes bigint,
    out outcome text, out stored_format int, out new_version bigint, out idle_left_ms bigint,
    out absolute_left_ms bigint, out ago_ms bigint, out payload jsonb
) language sql as $$
    select case c.outcome when 'revoked' then 'destroyed' else c.outcome end, c.stored_format, c.new_version,
            c.idle_left_ms, c.absolute_left_ms, c.ago_ms, c.payload
        from ha_session_commit_2(p_key, p_create, '\x0000'::bytea || p_successor, p_set, p_remove, p_expected, p_idle_ms,
            p_absolute_ms, p_grace_ms, p_max_bytes, null, null) c
$$;

-- The row under which a session goes on while its old key still answers, and the keys on the way, all locked.
create function ha_session_resolve_2(p_key bytea, out chain bytea[], out live boolean, out owner text)
language plpgsql as $$
declare
    r   ha_session;
    v   ha_session_revocation;
    at  timestamptz;
    hop bytea := p_key;
begin
    chain := '{}';
    live := false;
    loop
        select * into r from ha_session where key = substring(hop from 3) for update;
        if not found then
            return;
        end if;
        at := clock_timestamp();
        chain := chain || hop;
        exit when r.state <> 1 or r.successor is null or at >= r.idle_until;
        hop := r.successor;
    end loop;
    owner := r.principal;
    select * into v from ha_session_revocation where principal = r.principal;
    live := r.state = 0 and at < r.idle_until and r.epoch >= coalesce(v.epoch, 0);
end
$$;

-- Ends a session and what it was rotated to, whatever format they have: a sign-out that leaves a session of a newer format
-- alive would be none. With a principal only if the live session is one of theirs. Returns what it ended, with slot tags.
create function ha_session_destroy_2(p_key bytea, p_principal text) returns setof bytea language plpgsql as $$
declare
    found_chain record;
    hop         bytea;
begin
    select * into found_chain from ha_session_resolve_2(p_key);
    if p_principal is not null and not (found_chain.live and coalesce(found_chain.owner = p_principal, false)) then
        return;
    end if;
    foreach hop in array found_chain.chain loop
        update ha_session set format = 1, state = 2, data = '{}', ended_at = clock_timestamp(),
            idle_until = least(idle_until, clock_timestamp()),
            version = greatest(version + 1, floor(extract(epoch from clock_timestamp()) * 1000)::bigint)
            where key = substring(hop from 3) and state <> 2;
        if found then
            return next hop;
        end if;
    end loop;
end
$$;

-- Draws an epoch that all sessions of a principal but one are below. Returns it, and the live key of the one that is kept.
create function ha_session_revoke_all_2(p_principal text, p_keep bytea, out new_epoch bigint, out kept bytea)
language plpgsql as $$
declare
    found_chain record;
begin
    if p_keep is not null then
        select * into found_chain from ha_session_resolve_2(p_keep);
        if found_chain.live and found_chain.owner = p_principal then
            kept := found_chain.chain[array_upper(found_chain.chain, 1)];
        end if;
    end if;
    insert into ha_session_revocation as v (principal, epoch, revoked_at)
        values (p_principal, floor(extract(epoch from clock_timestamp()) * 1000)::bigint, clock_timestamp())
        on conflict (principal) do update
            set epoch = greatest(v.epoch + 1, excluded.epoch), revoked_at = clock_timestamp()
        returning v.epoch into new_epoch;
    update ha_session set epoch = new_epoch where key = substring(kept from 3);
end
$$;

-- When the next batch of ended sessions may be deleted, whoever does it.
create table ha_session_pace (
    only_row boolean     primary key default true check (only_row),
    next_at  timestamptz not null
);

insert into ha_session_pace (next_at) values (now());

-- Deletes one batch if it is time for one and nobody else is at it, so that the rate is bounded whatever the number of nodes. Says how
-- many rows it deleted (null when it was not the time) and in how many milliseconds to ask again.
create function ha_session_clean_2(
    p_limit int, p_pause_ms bigint, p_idle_ms bigint, p_longest_ms bigint, out deleted bigint, out wait_ms bigint
) language plpgsql as $$
declare
    next_turn timestamptz;
    old_ones  bigint;
    ms        constant interval := interval '1 millisecond';
begin
    -- The turn is a lock of this transaction: it ends with it, also when the node does. The number is nobody else's.
    if not pg_try_advisory_xact_lock(114784820819811) then
        wait_ms := p_pause_ms;
        return;
    end if;
    select next_at into next_turn from ha_session_pace;
    if next_turn > clock_timestamp() then
        wait_ms := extract(epoch from next_turn - clock_timestamp()) * 1000;
        return;
    end if;
    delete from ha_session where key in (select key from ha_session
        where idle_until < clock_timestamp() - interval '1 hour' order by idle_until limit p_limit for update skip locked);
    get diagnostics deleted = row_count;
    delete from ha_session_revocation where principal in (select principal from ha_session_revocation
        where revoked_at < clock_timestamp() - p_longest_ms * ms order by revoked_at limit p_limit for update skip locked);
    get diagnostics old_ones = row_count;
    wait_ms := case when greatest(deleted, old_ones) >= p_limit then p_pause_ms else p_idle_ms end;
    deleted := deleted + old_ones;
    update ha_session_pace set next_at = clock_timestamp() + wait_ms * ms;
end
$$;
