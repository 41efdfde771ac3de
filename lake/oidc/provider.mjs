// A real OpenID provider (npm oidc-provider) in the place of an institute's.
//
//     node provider.mjs SETTINGS.json      {"port", "rucio_url", "key", "certificate"}
//
// Access tokens are JWTs for audience "rucio" unless another is asked for.  Grants: authorization
// code, refresh token, client credentials, device code, and for tests "urn:lake:direct", which
// gives a token for the user named by `username` without a browser (parameters scope, aud, ttl).
import Provider from 'oidc-provider';
import fs from 'node:fs';
import https from 'node:https';

const settings = JSON.parse(fs.readFileSync(process.argv[2]));
const LIFETIME = 3600;
const DIRECT = 'urn:lake:direct';
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const RESOURCE = 'urn:rucio';
const SCOPES = [
  'openid', 'profile', 'offline_access', 'wlcg.groups', 'fts',
  'storage.read:/', 'storage.modify:/', 'storage.create:/',
  'storage.read:/rucio', 'storage.modify:/rucio',
];
const GRANTS = ['authorization_code', 'refresh_token', 'client_credentials'];

const resourceServer = (audience) => ({
  scope: SCOPES.join(' '),
  audience,
  accessTokenFormat: 'jwt',
  accessTokenTTL: LIFETIME,
  jwt: { sign: { alg: 'RS256' } },
});

const client = (id, secret, redirects, grants) => ({
  client_id: id,
  client_secret: secret,
  redirect_uris: redirects,
  grant_types: grants,
  response_types: ['code'],
  token_endpoint_auth_method: 'client_secret_basic',
});

const provider = new Provider(`https://localhost:${settings.port}`, {
  clients: [
    client('rucio', 'rucio-secret',
      ['oidc_code', 'oidc_token'].map((end) => `${settings.rucio_url}/auth/${end}`), GRANTS),
    client('rucio-fs', 'fs-secret', ['http://127.0.0.1:9999/callback'],
      [...GRANTS, DEVICE, DIRECT]),
  ],
  scopes: SCOPES,
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) =>
        resourceServer(resource === RESOURCE ? 'rucio' : resource),
    },
  },
  pkce: { required: () => false },
  issueRefreshToken: async () => true,
  ttl: { AccessToken: LIFETIME, RefreshToken: 86400, ClientCredentials: LIFETIME },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id }) }),
  extraTokenClaims: () => ({ 'wlcg.ver': '1.0', 'wlcg.groups': ['/lake'] }),
});

provider.registerGrantType(DIRECT, async (ctx, next) => {
  const { client: asking, params } = ctx.oidc;
  const accountId = `${params.username}-sub`;
  const scope = params.scope || 'openid profile';
  const audience = params.aud || 'rucio';
  const grant = new provider.Grant({ accountId, clientId: asking.clientId });
  grant.addOIDCScope('openid profile offline_access');
  grant.addResourceScope(RESOURCE, SCOPES.join(' '));
  const common = {
    accountId, client: asking, grantId: await grant.save(), gty: DIRECT, scope, claims: {},
    resource: RESOURCE,
  };
  const access = new provider.AccessToken({ ...common, expiresWithSession: false });
  access.resourceServer = new provider.ResourceServer(RESOURCE, resourceServer(audience));
  access.setAudience?.(audience);
  if (params.ttl) access.expiresIn = Number(params.ttl);
  const refresh = new provider.RefreshToken({ ...common, rotations: 0 });
  ctx.body = {
    access_token: await access.save(),
    refresh_token: await refresh.save(),
    expires_in: access.expiration,
    token_type: 'Bearer',
    scope,
  };
  await next();
}, ['username', 'scope', 'aud', 'ttl']);

provider.on('server_error', (_, error) => console.error(error));
const tls = {
  key: fs.readFileSync(settings.key),
  cert: fs.readFileSync(settings.certificate),
};
https.createServer(tls, provider.callback()).listen(settings.port, '127.0.0.1');
