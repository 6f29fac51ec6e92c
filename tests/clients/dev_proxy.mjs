// A development server as front ends have one: express, `compression` before everything, and a
// proxy to the service: node dev_proxy.mjs TARGET_URL. Prints its port.
import compression from "compression";
import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";

const app = express();
app.use(compression());
app.use(createProxyMiddleware({ target: process.argv[2], changeOrigin: true }));
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
