import tseslint from 'typescript-eslint';

/**
 * The house, top to bottom. A folder imports only from folders below it (docs/architecture.md).
 * Folders in one row are neighbours: they do not import each other.
 */
const floors = [
  ['commands'],
  ['jobs', 'activation'],
  ['config'],
  ['agent'],
  ['capture', 'cache', 'rotation', 'definitions'],
  ['stores'],
  ['transfer'],
  ['system'],
  ['model'],
];

/** Foreign packages and the only places that know them. */
const homes = {
  execa: ['src/system/run.ts'],
  'vscode-jsonrpc': ['src/agent/**'],
  '@xmldom/xmldom': ['src/definitions/**'],
  xml2js: ['src/system/virsh.ts', 'src/definitions/**'],
  commander: ['src/main.ts', 'src/main-activate.ts', 'src/commands/**'],
  yaml: ['src/config/**'],
  'node:child_process': ['src/system/**'],
};

/** Pure files: values in, values out. */
const pure = [
  'src/rotation/plan.ts', 'src/cache/place.ts', 'src/jobs/plan-job.ts', 'src/jobs/plan-volumes.ts', 'src/stores/volume-choice.ts',
  'src/activation/plan.ts', 'src/definitions/rewrite.ts',
];

const homePaths = (file) => Object.entries(homes)
  .filter(([, where]) => !where.includes(file))
  .map(([name]) => ({ name, message: `only ${homes[name].join(', ')} may import ${name}` }));

const floorRules = floors.flatMap((row, index) => row.map((folder) => {
  const above = floors.slice(0, index).flat();
  const beside = row.filter((other) => other !== folder);
  const files = `src/${folder}/**`;
  return {
    files: [`${files}/*.ts`],
    rules: {
      'no-restricted-imports': ['error', {
        paths: homePaths(files),
        patterns: [
          ...[...above, ...beside].map((other) => ({
            regex: `^(\\.\\./)+${other}/`, message: `src/${folder} must not import src/${other}: imports point down`,
          })),
          { regex: '^(\\.\\./)+main', message: 'nothing imports main' },
        ],
      }],
    },
  };
}));

/** Single files that are a package's home keep the rule of their floor, less that package. */
const homeFiles = Object.values(homes).flat().filter((where) => where.endsWith('.ts') && where.startsWith('src/system'));

export default tseslint.config(
  { ignores: ['build/', 'node_modules/', '.sandbox/'] },
  ...tseslint.configs.strict,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      // Also keeps `await using` from letting go before a returned promise is done.
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/no-non-null-assertion': 'error',
      'max-lines': ['error', { max: 400, skipBlankLines: true, skipComments: true }],
    },
  },
  ...floorRules,
  ...homeFiles.map((file) => ({
    files: [file],
    rules: {
      'no-restricted-imports': ['error', {
        paths: Object.entries(homes)
          .filter(([, where]) => !where.includes(file) && !where.includes('src/system/**'))
          .map(([name]) => ({ name })),
        patterns: [{ regex: '^(\\.\\./)+(?!model/)', message: 'src/system imports only src/model' }],
      }],
    },
  })),
  {
    files: pure,
    rules: {
      'no-restricted-imports': ['error', {
        paths: Object.keys(homes).filter((name) => !['@xmldom/xmldom', 'xml2js'].includes(name)).map((name) => ({ name })),
        patterns: [
          { regex: '^\\.\\./(?!model/|rotation/plan\\.|cache/place\\.|definitions/read\\.|stores/volume-choice\\.)', message: 'a pure file imports only src/model and other pure files' },
          { regex: '^node:(fs|child_process|net|os|process)', message: 'a pure file has no effects' },
        ],
      }],
    },
  },
  { files: ['test/**/*.ts'], rules: { '@typescript-eslint/no-unused-expressions': 'off' } },
  { files: ['**/*.js'], ...tseslint.configs.disableTypeChecked },
);
