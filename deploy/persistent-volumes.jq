# PersistentVolumes for the volumes whose primary this site has become, each reserved for the claim that it belongs to: apply
# them after `farshore failover` or `switchover`, and then the application's own manifests, unchanged. All that is needed is
# kept with the volume in every site. Nothing is asked of the lost cluster.
#
#   farshore -o json volume list | jq --arg class farshore-metro -f deploy/persistent-volumes.jq | kubectl apply -f -
#
# class: the StorageClass that the claims name. Left out are volumes that no claim was made for. They are kept when their
# claim is deleted (Retain), and are filesystems; for raw blocks set volumeMode: Block.
def said(key): .labels["csi.storage.k8s.io/" + key] // "";
{
  apiVersion: "v1",
  kind: "List",
  items: [
    .volumes[]
    | select(.primary.site == .reporter.site and said("pvc/name") != "")
    | .reporter.site as $site
    | {
        apiVersion: "v1",
        kind: "PersistentVolume",
        metadata: {name: (if said("pv/name") != "" then said("pv/name") else .name end)},
        spec: {
          capacity: {storage: (.size_bytes | tostring)},
          accessModes: ["ReadWriteOnce"],
          persistentVolumeReclaimPolicy: "Retain",
          storageClassName: $class,
          claimRef: {apiVersion: "v1", kind: "PersistentVolumeClaim", namespace: said("pvc/namespace"), name: said("pvc/name")},
          csi: {driver: "csi.farshore.io", volumeHandle: .id},
          nodeAffinity: {required: {nodeSelectorTerms: [
            .members[]
            | select(.site == $site and .kind == "data")
            | {matchExpressions: [
                {key: "topology.farshore.io/site", operator: "In", values: [.site]},
                {key: "topology.farshore.io/node", operator: "In", values: [.node]}
              ]}
          ]}}
        }
      }
  ]
}
