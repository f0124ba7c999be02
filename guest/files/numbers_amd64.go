package files

const renameAt2 = 316
