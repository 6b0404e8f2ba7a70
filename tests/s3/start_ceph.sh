#!/bin/bash
# Ceph's S3 gateway with one monitor and one store on 127.0.0.1, no authentication between them (Ceph 16, Debian 12).
# usage: start_ceph.sh DIR PORT [ACCESS_KEY SECRET_KEY]    prints "mon-pid osd-pid gateway-pid"; also uses PORT + 1
set -eu
D=$1 P=$2 ACCESS=${3:-testkey} SECRET=${4:-testsecret} FRESH=0
mkdir -p "$D"/{mon,osd,run,log}
export CEPH_CONF=$D/ceph.conf
if [ ! -f "$CEPH_CONF" ]; then
  FRESH=1 FSID=$(cat /proc/sys/kernel/random/uuid)
  cat >"$CEPH_CONF" <<EOF
[global]
fsid = $FSID
mon host = [v2:127.0.0.1:$((P + 1))]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
# without cephx the monitor's secure mode cannot be negotiated
ms mon client mode = crc secure
ms mon cluster mode = crc secure
ms mon service mode = crc secure
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
osd crush chooseleaf type = 0
osd class update on start = false
osd memory target = 939524096
bluestore block size = 10737418240
bluestore fsck on mount = false
mon data = $D/mon
osd data = $D/osd
run dir = $D/run
admin socket = $D/run/\$name.asok
log file = $D/log/\$name.log
pid file = $D/run/\$name.pid
[client.rgw.a]
# without tcp_nodelay a small ranged read waits 40 ms for an acknowledgement
rgw frontends = beast endpoint=127.0.0.1:$P tcp_nodelay=1
rgw enable usage log = false
rgw dns name = localhost
rgw thread pool size = 64
EOF
  monmaptool --create --fsid "$FSID" --addv a "[v2:127.0.0.1:$((P + 1))]" "$D/monmap" >/dev/null 2>&1
  ceph-mon -i a --mkfs --monmap "$D/monmap" >/dev/null
fi
ceph-mon -i a -f >>"$D/log/mon.out" 2>&1 & MON=$!
if [ $FRESH = 1 ]; then
  U=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$U" >/dev/null
  ceph-osd -i 0 --mkfs --osd-uuid "$U" >>"$D/log/osd.out" 2>&1
fi
ceph-osd -i 0 -f >>"$D/log/osd.out" 2>&1 & OSD=$!
if [ $FRESH = 1 ]; then
  for _ in $(seq 100); do ceph osd stat 2>/dev/null | grep -q '1 up' && break; sleep 0.2; done
  timeout 60 radosgw-admin user create --uid=test --display-name=test --access-key="$ACCESS" --secret-key="$SECRET" \
    >>"$D/log/admin.out" 2>&1
fi
radosgw -n client.rgw.a -f >>"$D/log/rgw.out" 2>&1 & RGW=$!
echo $MON $OSD $RGW
