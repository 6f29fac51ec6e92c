// Makes what the service serves of the package, in its folder of pages or in another: the core,
// /client.js, and a conversation upon it, /conversation.js: node build.mjs [folder]
import {build} from "esbuild";
import {fileURLToPath} from "node:url";

const banner = `// Follow a run of Plateau:
//
//   import {follow} from "https://host/client.js";
//   follow(eventsUrl, (state) => (pre.textContent = state.text));
//
// Made of clients/js/src, on npm plateau-client.`;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const folder = process.argv[2] ?? here("../../service/plateau_sse/web");
const made = {bundle: true, charset: "utf8", format: "esm", minify: true, target: "es2023"};
const ofTheCore = {
  name: "of the core",
  setup({onResolve}) {
    onResolve({filter: /^\.\/(fold|follow|service)\.js$/}, () =>
      ({path: "./client.js", external: true}));
  },
};

await build({
  ...made,
  entryPoints: [here("src/index.js")],
  outfile: `${folder}/client.js`,
  banner: {js: banner},
});
await build({
  ...made,
  entryPoints: [here("src/store.js")],
  outfile: `${folder}/conversation.js`,
  plugins: [ofTheCore],
  banner: {js: "// Made of clients/js/src/store.js."},
});
