package boot

const finitModule = 313
