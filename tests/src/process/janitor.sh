# Ends what a bed started, once its owner is gone. Reads the owner's pipe: "+PID" and "-PID" lines, end of file when
# the owner ended. $1 is the bed's directory, $2 is "keep" when its files are to stay.
trap '' INT TERM HUP PIPE
dir=$1
pids=' '
while read -r line; do
    case $line in
    +*) pids="$pids${line#+} " ;;
    -*) pids=$(printf '%s' "$pids" | sed "s/ ${line#-} / /") ;;
    esac
done

# Whether the bed started process $1: its output goes to the log $2, or its environment says so. Servers that show what
# they are doing in their title write it over their environment.
ours() {
    for output in 1 2; do
        case $(readlink "/proc/$1/fd/$output") in
        "$2" | "$2 (deleted)") return 0 ;;
        esac
    done
    tr '\0' '\n' <"/proc/$1/environ" | grep -qxF "HA_TESTBED_DIR=$dir"
}

# Prints the processes that work inside the directory and were started by the bed; a person's shell may work there too.
inside() {
    ls -ld /proc/[0-9]*/cwd 2>/dev/null | while read -r entry; do
        case $entry in
        *" /proc/"*"/cwd -> $dir/"*)
            below=${entry#*"/cwd -> $dir/"}
            below=${below%" (deleted)"}
            entry=${entry#*" /proc/"}
            ! ours "${entry%%/*}" "$dir/${below%%/*}.log" 2>/dev/null || printf '%s\n' "${entry%%/*}"
            ;;
        esac
    done
}

# Prints the listed processes and all that descend from them.
below() {
    for file in $(find "$dir/" -name postmaster.pid 2>/dev/null); do
        read -r postmaster <"$file" && pids="$pids$postmaster "
    done
    ps -axo pid=,ppid= | awk -v roots="$pids" '
        BEGIN { n = split(roots, r, " "); for (i = 1; i <= n; i++) mine[r[i]] = 1 }
        { parent[$1] = $2 }
        END {
            do {
                more = 0
                for (p in parent) if (!(p in mine) && (parent[p] in mine)) { mine[p] = 1; more = 1 }
            } while (more)
            for (p in mine) if (p in parent) print p
        }'
}

round=0
while [ "$round" -lt 100 ]; do
    if [ -e /proc/self/cwd ]; then found=$(inside); else found=$(below); fi
    [ -n "$found" ] || break
    kill -9 $found 2>/dev/null
    round=$((round + 1))
    sleep 0.05
done

# A PostgreSQL that was killed leaves a small System V segment, which it names in its pid file; there are only so many.
find "$dir/" -name postmaster.pid 2>/dev/null | while read -r file; do
    segment=$(sed -n '7s/^ *[0-9]* *//p' "$file")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
    rm -f "$file"
done
[ "$2" = keep ] || rm -rf "$dir"
