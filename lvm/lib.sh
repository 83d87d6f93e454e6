# What dr-engine's LVM wrappers have in common. Sourced by each of them, never run by itself.
#
# The wrappers are all that dr-engine does to LVM. They may be run with sudo by a user who is not trusted with more than they
# offer (sudoers.sample), so whatever their arguments are:
#   - they see and touch only volume groups that /etc/dr/vgs names, one to a line (save `devices`, which names where others are);
#   - they change only volumes that carry the tag dr-engine or dr-engine-snapshot, which only `create` and `snapshot` give;
#   - nothing from the command line reaches lvm2 before it is known to be a plain name, UUID, size or tag.
#
# Each takes --dry-run as its first argument: it prints what it would run, and changes nothing.
# Exit status: 0 done; 1 lvm2 failed; 2 wrong arguments; 3 the volume group is not allowed or not there; 4 the name exists;
# 5 no space; 6 the volume is not ours; 7 it is not what the caller saw. The reason is one line on standard error.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
ALLOWED=/etc/dr/vgs
LOG=/var/log/dr-lvm.log
STATE=/var/lib/dr-lvm

set -uf
umask 077
unset IFS
export PATH LC_ALL=C LVM_SUPPRESS_FD_WARNINGS=1
verb=${0##*/}
outcome=died

# Makes text harmless in a log and on a terminal; it is then in `clean`.
clean() { # TEXT
	clean=$1
	case $1 in
	*[!A-Za-z0-9_+.,=/:@\ \"\;\'\(\)\<-]*) clean=$(printf '%.300s' "$1" | tr -c 'A-Za-z0-9_+.,=/:@ ";'\''()<-' '?') ;;
	esac
	[ ${#clean} -le 300 ] || clean=$(printf '%.300s' "$clean")
}

finish() {
	# A full disk below the log must not stand in the way: its error is nobody's.
	printf '%s %s %s %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$caller" "$verb" "$arguments" "$outcome" 2>/dev/null >>"$LOG" || :
}

refuse() { # STATUS MESSAGE
	clean "$2"
	outcome="status $1, $clean"
	printf 'dr-lvm: %s: %s\n' "$verb" "$clean" >&2
	exit "$1"
}

usage() {
	refuse 2 "$1; wanted: $verb $USAGE"
}

# How many arguments there must be at least and at most.
expect() { # MINIMUM MAXIMUM COUNT
	[ "$3" -ge "$1" ] && [ "$3" -le "$2" ] || usage 'wrong number of arguments'
}

check_characters() { # WHAT TEXT
	case $2 in
	'' | -* | . | .. | *[!A-Za-z0-9+_.-]*) usage "not a name of a $1: $2" ;;
	esac
}

# Sets `mapped` to a name as it is in device-mapper's names, where each hyphen is doubled.
map() { # NAME
	case $1 in
	*-*) mapped=$(printf '%s' "$1" | sed 's/-/--/g') ;;
	*) mapped=$1 ;;
	esac
}

# A name that LVM takes (lvm(8)): it counts both names together, and device-mapper has 127 characters for its own.
check_name() { # VG NAME
	check_characters 'logical volume' "$2"
	case $2 in
	snapshot* | pvmove* | *_cdata* | *_cmeta* | *_corig* | *_cpool* | *_cvol* | *_imeta* | *_iorig* | *_mimage* | *_mlog* | *_pmspare* | \
		*_rimage* | *_rmeta* | *_tdata* | *_tmeta* | *_vdata* | *_vorigin* | *_wcorig*) usage "LVM keeps this name for itself: $2" ;;
	esac
	[ $((${#1} + ${#2})) -le 124 ] || usage 'a name is too long'
	map "$1-$2"
	[ ${#mapped} -le 128 ] || usage 'a name is too long for device-mapper' # its own hyphen was doubled as well
}

check_uuid() {
	case $1 in
	*[!A-Za-z0-9-]*) ;;
	??????-????-????-????-????-????-??????) return ;;
	esac
	usage "not a volume's UUID: $1"
}

# Bytes, in up to 16 digits (8 PiB); sets `size` to them, rounded up to sectors. LVM rounds up to extents.
check_size() {
	case $1 in
	'' | 0* | *[!0-9]* | ?????????????????*) usage "not a size in bytes: $1" ;;
	esac
	size=$((($1 + 511) / 512 * 512))
}

# Ours begin with dr. and say nothing to LVM; dr-engine and dr-engine-snapshot are not for callers.
check_tag() {
	case $1 in
	dr.*[!A-Za-z0-9_+.=/:-]*) ;;
	dr.?*) [ ${#1} -le 1024 ] && return ;;
	esac
	usage "not a tag of dr-engine: $1"
}

# Reads the list of allowed volume groups, which only root may have written, into `groups`, one to a line.
read_groups() {
	[ -f "$ALLOWED" ] || refuse 3 "there is no $ALLOWED: it names, one to a line, the volume groups that dr-engine may use"
	case $(stat -L -c '%u %A' -- "${ALLOWED%/*}" "$ALLOWED") in
	'0 d'????-??-?'
0 -'????-??-?) ;;
	*) refuse 3 "$ALLOWED and its directory must belong to root and be writable by nobody else" ;;
	esac
	groups=
	while read -r group rest || [ -n "$group" ]; do
		case $group in
		'' | '#'*) continue ;;
		-* | . | .. | *[!A-Za-z0-9+_.-]*) refuse 3 "$ALLOWED has a line that is no name of a volume group: $group" ;;
		esac
		case $rest in
		'' | '#'*) groups="$groups$group
" ;;
		*) refuse 3 "$ALLOWED has a line with more than one name: $group $rest" ;;
		esac
	done <"$ALLOWED"
}

check_group() { # VG
	check_characters 'volume group' "$1"
	read_groups
	case "
$groups" in
	*"
$1
"*) ;;
	*) refuse 3 "the volume group $1 is not in $ALLOWED" ;;
	esac
}

# Says what lvm2 had against it, and ends.
failed() { # WHAT LVM2 SAID
	set -- "$(printf '%s' "$1" | tr -s '\n ' ' ' | sed 's/^ //')"
	case $1 in
	*'already exists in volume group'* | *'already used in volume group'*) refuse 4 "$1" ;;
	*'nsufficient free space'* | *'nsufficient suitable allocatable'* | *'nsufficient free extents'*) refuse 5 "$1" ;;
	*'Volume group "'*'" not found'* | *'Cannot process volume group'*) refuse 3 "$1" ;;
	*) refuse 1 "lvm2 failed: $1" ;;
	esac
}

# Runs a program that changes something; what it says is in `said`.
act() {
	if [ "$dry" = yes ]; then
		printf '%s\n' "$*"
		outcome=dry
		exit 0
	fi
	said=$("$@" </dev/null 2>&1)
}

# Sets `ours` to the selection by which lvm2 itself finds VG/NAME only if it has that UUID and is ours.
select_ours() { # VG NAME UUID
	ours="vg_name=\"$1\" && lv_name=\"$2\" && lv_uuid=\"$3\" && (tags=\"dr-engine\" || tags=\"dr-engine-snapshot\")"
}

# Proves that VG/NAME has that UUID and is ours, else refuses, saying why. Status 1: there is nothing with that UUID in the group.
prove() { # VG NAME UUID
	select_ours "$@"
	found=$(lvs --all --noheadings --separator ' ' --options lv_uuid,lv_name,lv_tags --select "vg_name=\"$1\" && lv_uuid=\"$3\"" 2>&1) || failed "$found"
	found=$(printf '%s\n' "$found" | sed -n "s/^ *$3 //p")
	[ -n "$found" ] || return 1
	case "$found," in
	"$2 "*) ;;
	*) refuse 7 "the volume with the UUID $3 is not $1/$2 but $1/${found%% *}" ;;
	esac
	case ",${found#* }," in
	*,dr-engine,* | *,dr-engine-snapshot,*) ;;
	*) refuse 6 "$1/$2 was not made by dr-engine: it does not carry its tag" ;;
	esac
}

# As prove; a volume that is gone is refused too.
must_prove() {
	prove "$@" || refuse 7 "there is no volume with the UUID $3 in $1"
}

dry=no
clean "$*"
arguments=$clean
clean "${SUDO_USER:-root}"
caller=$clean
trap finish EXIT
trap 'exit 1' HUP INT TERM
trap '' PIPE # who started us may have died; what we hold is let go of all the same
[ "$(id -u)" = 0 ] || refuse 1 'this needs root; sudoers.sample lets another user run it'
if [ "${1-}" = --dry-run ]; then
	dry=yes
	shift
fi
