// Validate manifests of custom resources by the schemas of their CRDs, as @kubernetes-models carries them.
// node custom_resources.mjs ENVIRONMENT < manifests.json; prints one JSON list of messages, empty when all are valid.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const packages = {
  "networking.istio.io": "istio",
  "gateway.networking.k8s.io": "gateway-api",
  "gateway.envoyproxy.io": "envoy-gateway",
  "monitoring.coreos.com": "prometheus-operator",
};
const messages = [];
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  const [group] = manifest.apiVersion.split("/");
  const file = `${process.argv[2]}/node_modules/@kubernetes-models/${packages[group]}/${manifest.apiVersion}/${manifest.kind}.js`;
  const module = await import(pathToFileURL(file));
  const Model = module[manifest.kind] ?? module.default[manifest.kind];
  try {
    new Model(manifest).validate();
  } catch (error) {
    messages.push(`${manifest.kind} ${manifest.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify(messages));
