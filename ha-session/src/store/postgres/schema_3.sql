alter table ha_session add column removed jsonb not null default '{}'; -- names, and the version of the commit that removed each

-- What a sign-in was overtaken by is told in the step itself, so that nothing is stored of it; and of two first commits of one key the
-- second changes what the first has made.

-- The same rules as engine.rs, in one round trip and under the row's lock.
create function ha_session_commit_3(
    p_key bytea, p_create boolean, p_successor bytea, p_set jsonb, p_remove text[], p_expected jsonb,
    p_idle_ms bigint, p_absolute_ms bigint, p_grace_ms bigint, p_max_bytes bigint, p_principal text, p_device text,
    p_began_ms bigint, p_knows bigint, p_yields text[],
    out outcome text, out stored_format int, out new_version bigint, out idle_left_ms bigint,
    out absolute_left_ms bigint, out ago_ms bigint, out payload jsonb, out owner text, out owner_epoch bigint,
    out revoked_ago_ms bigint
) language plpgsql as $$
declare
    r           ha_session;
    v           ha_session_revocation;
    is_new      boolean := false;
    at          timestamptz;
    set_now     jsonb;
    remove_now  text[];
    next_data   jsonb;
    next_idle   timestamptz;
    total       bigint;
    conflicting text[];
    ms          constant interval := interval '1 millisecond';
begin
    <<again>>
    loop
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

        if p_principal is not null then
            select * into v from ha_session_revocation where principal = p_principal;
            if v.epoch <> p_knows and at - v.revoked_at <= p_began_ms * ms then
                outcome := 'overtaken';
                return;
            end if;
        end if;

        select array_agg(e.key) into conflicting from jsonb_each_text(p_expected) e
            where coalesce((r.data -> e.key ->> 0)::bigint, 0) <> e.value::bigint;
        if not conflicting <@ p_yields then
            select to_jsonb(array_agg(c.name)) into payload from unnest(conflicting) c (name) where c.name <> all (p_yields);
            outcome := 'conflict';
            return;
        end if;
        -- The first writer of these has won.
        set_now := p_set - coalesce(conflicting, '{}');
        select coalesce(array_agg(m.name), '{}') into remove_now from unnest(p_remove) m (name)
            where m.name <> all (coalesce(conflicting, '{}'));

        new_version := greatest(r.version + 1, floor(extract(epoch from at) * 1000)::bigint);
        select (r.data - remove_now) || coalesce(jsonb_object_agg(s.key, jsonb_build_array(new_version, s.value)), '{}')
            into next_data from jsonb_each_text(set_now) s;
        select coalesce(sum(octet_length(d.key) + octet_length(decode(d.value ->> 1, 'base64'))), 0)
            into total from jsonb_each(next_data) d;
        if total > p_max_bytes then
            outcome := 'too_large';
            new_version := total;
            return;
        end if;

        if cardinality(remove_now) > 0 and not is_new then
            -- A day is longer than a journal is replayed for.
            select coalesce(jsonb_object_agg(e.name, e.version), '{}') into r.removed from (
                select o.key as name, o.value::bigint as version from jsonb_each_text(r.removed) o
                    where o.key <> all (remove_now) and o.value::bigint > new_version - 86400000
                union all select n.name, new_version from unnest(remove_now) n (name)) e;
        end if;
        if p_successor is not null and not is_new then
            update ha_session set state = 1, version = new_version, ended_at = at, successor = p_successor,
                idle_until = least(r.idle_until, at + p_grace_ms * ms) where key = p_key;
        end if;
        if p_principal is not null then
            r.principal := p_principal;
            r.epoch := coalesce(v.epoch, 0);
            r.device := p_device;
            r.claimed_at := at;
        end if;
        next_idle := least(r.absolute_until, at + p_idle_ms * ms);
        if is_new then
            insert into ha_session (key, format, version, state, idle_until, absolute_until, data, principal, epoch, device,
                    claimed_at, used_at)
                values (coalesce(substring(p_successor from 3), p_key), 1, new_version, 0, next_idle, r.absolute_until,
                    next_data, r.principal, r.epoch, r.device, r.claimed_at, at)
                on conflict (key) do nothing;
            -- Another first commit of the same key was faster: this one changes what that one has made.
            if not found and p_successor is not null then
                raise unique_violation using message = 'the key of a rotation is taken';
            end if;
            continue again when not found;
        elsif p_successor is not null then
            insert into ha_session (key, format, version, state, idle_until, absolute_until, data, principal, epoch, device,
                    claimed_at, used_at)
                values (substring(p_successor from 3), 1, new_version, 0, next_idle, r.absolute_until, next_data, r.principal,
                    r.epoch, r.device, r.claimed_at, at);
        else
            update ha_session set version = new_version, idle_until = next_idle, data = next_data, principal = r.principal,
                epoch = r.epoch, device = r.device, claimed_at = r.claimed_at, used_at = at, removed = r.removed
                where key = p_key;
        end if;
        outcome := 'committed';
        idle_left_ms := extract(epoch from next_idle - at) * 1000;
        absolute_left_ms := extract(epoch from r.absolute_until - at) * 1000;
        payload := next_data;
        owner := r.principal;
        owner_epoch := r.epoch;
        revoked_ago_ms := extract(epoch from at - v.revoked_at) * 1000;
        return;
    end loop;
end
$$;

-- Nodes of the version before go on.
create or replace function ha_session_commit_2(
    p_key bytea, p_create boolean, p_successor bytea, p_set jsonb, p_remove text[], p_expected jsonb,
    p_idle_ms bigint, p_absolute_ms bigint, p_grace_ms bigint, p_max_bytes bigint, p_principal text, p_device text,
    out outcome text, out stored_format int, out new_version bigint, out idle_left_ms bigint,
    out absolute_left_ms bigint, out ago_ms bigint, out payload jsonb, out owner text, out owner_epoch bigint,
    out revoked_ago_ms bigint
) language sql as $$
    select c.outcome, c.stored_format, c.new_version, c.idle_left_ms, c.absolute_left_ms, c.ago_ms, c.payload, c.owner,
            c.owner_epoch, c.revoked_ago_ms
        from ha_session_commit_3(p_key, p_create, p_successor, p_set, p_remove, p_expected, p_idle_ms, p_absolute_ms,
            p_grace_ms, p_max_bytes, p_principal, p_device, null, 0, '{}') c
$$;

-- Tells of a change that was acknowledged while this database was away. Each name has the version of its change: what was changed or
-- removed later here stays, and what was told before changes nothing. A session that has ended stays so.
create function ha_session_replay_3(
    p_key bytea, p_version bigint, p_born boolean, p_values jsonb, p_idle_ms bigint, p_absolute_ms bigint, out outcome text
) language plpgsql as $$
declare
    r          ha_session;
    v          ha_session_revocation;
    at         timestamptz;
    used       timestamptz;
    changed    text[];
    ms         constant interval := interval '1 millisecond';
begin
    <<again>>
    loop
        select * into r from ha_session where key = p_key for update;
        at := clock_timestamp();
        used := least(at, to_timestamp(p_version / 1000.0));
        if not found then
            if not p_born or used < at - interval '1 day' or at >= used + least(p_idle_ms, p_absolute_ms) * ms then
                outcome := 'missing';
                return;
            end if;
            insert into ha_session (key, format, version, state, idle_until, absolute_until, data, used_at)
                values (p_key, 1, 0, 0, used + least(p_idle_ms, p_absolute_ms) * ms, used + p_absolute_ms * ms, '{}', used)
                on conflict (key) do nothing;
            continue again;
        end if;
        if r.format <> 1 then
            outcome := 'format';
            return;
        end if;
        if r.state <> 0 then
            outcome := case r.state when 2 then 'destroyed' else 'rotated' end;
            return;
        end if;
        if r.principal is not null then
            select * into v from ha_session_revocation where principal = r.principal;
            if found and r.epoch < v.epoch then
                outcome := 'revoked';
                return;
            end if;
        end if;
        if used >= r.idle_until then
            outcome := 'expired';
            return;
        end if;
        select coalesce(array_agg(c.key), '{}') into changed from jsonb_each(p_values) c
            where (c.value ->> 0)::bigint > greatest(coalesce((r.data -> c.key ->> 0)::bigint, 0),
                coalesce((r.removed ->> c.key)::bigint, 0));
        select (r.data - changed) || coalesce(jsonb_object_agg(c.key, jsonb_build_array(c.value -> 0, c.value -> 1))
                filter (where c.value ->> 1 is not null), '{}'),
            (r.removed - changed) || coalesce(jsonb_object_agg(c.key, c.value -> 0) filter (where c.value ->> 1 is null), '{}')
            into r.data, r.removed from jsonb_each(p_values) c where c.key = any (changed);
        update ha_session set data = r.data, removed = r.removed,
            version = greatest(p_version, r.version + sign(cardinality(changed))::bigint),
            idle_until = greatest(r.idle_until, least(r.absolute_until, used + p_idle_ms * ms)),
            used_at = greatest(r.used_at, used) where key = p_key;
        outcome := 'replayed';
        return;
    end loop;
end
$$;

-- Ends a session as ha_session_destroy_2 does, and remembers the end for so long also where nothing was known of it: some journal may
-- still tell of it.
create function ha_session_destroy_3(p_key bytea, p_principal text, p_remember_ms bigint) returns setof bytea language plpgsql as $$
declare
    until timestamptz := clock_timestamp() + p_remember_ms * interval '1 millisecond';
begin
    return query select ha_session_destroy_2(p_key, p_principal);
    if p_remember_ms > 0 and p_principal is null then
        insert into ha_session as s (key, format, version, state, idle_until, absolute_until, data, ended_at)
            values (substring(p_key from 3), 1, floor(extract(epoch from clock_timestamp()) * 1000)::bigint, 2, until, until, '{}',
                clock_timestamp())
            on conflict (key) do update set idle_until = greatest(s.idle_until, until) where s.state = 2;
    end if;
end
$$;
